"""Settings of the parts of an instrument: column, optics, camera and stage.

Defaults make an instrument for serial sections: 120 kV, 2048² px at 4 nm, wrong nominal positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from simulation.errors import SettingsError
from simulation.settings.base import Settings, ranged


@dataclass(frozen=True)
class Magnification:
    """One line of the magnification table, as the column reports it.

    Attributes
    ----------
    mode : {"LM", "M"}
        Range of the lens system: low or high magnification.
    magnification : int
    pixel_size : float
        At the specimen, in nm, for a sensor pixel (binning 1).
    rotation : float
        From image axes to stage axes, in degrees, counter-clockwise.
    flip_columns, flip_rows : bool
        Whether the camera mirrors the image along its columns or its rows.
    """

    mode: str
    magnification: int
    pixel_size: float
    rotation: float = 0.0
    flip_columns: bool = False
    flip_rows: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("LM", "M"):
            raise SettingsError(f"Magnification.mode is {self.mode!r}; it must be LM or M")
        if not (isfinite(self.pixel_size) and 0.05 <= self.pixel_size <= 10_000):
            raise SettingsError(
                f"Magnification.pixel_size is {self.pixel_size!r}; "
                "it must lie between 0.05 and 10000 nm"
            )
        if not isfinite(self.rotation):
            raise SettingsError(
                f"Magnification.rotation is {self.rotation!r}; it must be finite, in degrees"
            )


# The image turns with the lens currents, so each magnification has an angle of its own.
MAGNIFICATIONS = (
    Magnification("LM", 50, 400.0, -14.0),
    Magnification("LM", 125, 160.0, -13.2),
    Magnification("LM", 250, 80.0, -12.5),
    Magnification("LM", 500, 40.0, -11.8),
    Magnification("M", 1250, 16.0, 1.6),
    Magnification("M", 2500, 8.0, 2.4),
    Magnification("M", 5000, 4.0, 3.0),
    Magnification("M", 10000, 2.0, 3.7),
    Magnification("M", 20000, 1.0, 5.1),
    Magnification("M", 50000, 0.4, 8.4),
)


@dataclass(frozen=True)
class ColumnSettings(Settings):
    """The column as it is at the start, and how its calibration is wrong.

    Attributes
    ----------
    model : str
    high_tension : float
        In kV.
    magnification : int
        The one at the start; it must stand in the table.
    magnifications : tuple of Magnification
    pixel_size_error, rotation_error : float
        What the true pixel size and angle differ by from the table: in percent, in degrees.
    gun_current : float
        Current at the specimen with spot size 1, in nA.
    spot_current_ratio : float
        Current of a spot size over that of the one before.
    beam_spread : float
        Diameter of the beam at the specimen, in µm.
    beam_edge : float
        Softness of its edge, as a fraction of its radius.
    beam_falloff : float
        By how much its middle is brighter than its rim, as a fraction.
    beam_offset : (float, float)
        Where the beam falls with BeamX = BeamY = 0, in µm.
    intensity_zoom : bool
        Whether the spread follows the pixel size when the magnification changes.
    image_shift_error : (float, float)
        Scale error in percent and angle error in degrees of the image shift.
    vacuum : float
        Pressure of the column, in Pa.
    """

    model: str = "temline virtual microscope"
    high_tension: float = ranged(120.0, 20, 300, "kV")
    magnification: int = 5000
    magnifications: tuple[Magnification, ...] = MAGNIFICATIONS
    pixel_size_error: float = ranged(0.2, -5, 5, "%")
    rotation_error: float = ranged(0.1, -5, 5, "deg")
    gun_current: float = ranged(47.0, 0.001, 10_000, "nA")
    spot_current_ratio: float = ranged(0.6, 0.1, 1)
    beam_spread: float = ranged(20.0, 0.5, 5000, "µm")
    beam_edge: float = ranged(0.03, 0.001, 0.3)
    beam_falloff: float = ranged(0.08, 0, 0.9)
    beam_offset: tuple[float, float] = ranged((0.3, -0.2), -1000, 1000, "µm")
    intensity_zoom: bool = True
    image_shift_error: tuple[float, float] = ranged((0.8, 0.5), -10, 10, "% or deg")
    vacuum: float = ranged(2e-5, 1e-9, 1e-3, "Pa")

    def __post_init__(self) -> None:
        super().__post_init__()
        table = tuple(
            line if isinstance(line, Magnification) else Magnification(**line)
            for line in self.magnifications
        )
        object.__setattr__(self, "magnifications", table)
        known = [line.magnification for line in table]
        if self.magnification not in known:
            raise SettingsError(
                f"ColumnSettings.magnification is {self.magnification!r}; "
                f"it must be one of {', '.join(map(str, known))}"
            )


@dataclass(frozen=True)
class OpticsSettings(Settings):
    """Lenses, coherence, and where the section lies.

    Attributes
    ----------
    cs, cc : float
        Spherical and chromatic aberration, in mm.
    energy_spread : float
        Standard deviation of the beam's energy, in eV.
    amplitude_contrast : float
        Share of the contrast that is absorption, 0 (a phase object) to 1 (mass thickness only).
    semi_angle : float
        Illumination semi-angle in the high range, in mrad; it makes the blur of defocus.
    lm_semi_angle : float
        The same in the low range.
    focus_offset : float
        What Defocus must be set to, to focus the origin of the section, in µm.
    section_tilt : (float, float)
        Slope of the section along x and y, in µm per µm.
    height_rms, height_scale : float
        Size and wavelength of the waves of the section, in µm.
    astigmatism : (float, float)
        Intrinsic twofold astigmatism (A cos 2φ, A sin 2φ), in µm.
    stigmator_strength : float
        Astigmatism of a stigmator at full scale, in µm.
    radial_distortion : float
        At the corner of the sensor, in px; positive is a pincushion.
    field_distortion : float
        Largest shift of the smooth field of second and third order, in px.
    """

    cs: float = ranged(2.7, 0, 20, "mm")
    cc: float = ranged(2.7, 0, 20, "mm")
    energy_spread: float = ranged(0.8, 0, 10, "eV")
    amplitude_contrast: float = ranged(0.8, 0.01, 1)
    semi_angle: float = ranged(1.0, 0, 20, "mrad")
    lm_semi_angle: float = ranged(0.1, 0, 20, "mrad")
    focus_offset: float = ranged(-3.2, -200, 200, "µm")
    section_tilt: tuple[float, float] = ranged((0.006, -0.004), -0.2, 0.2, "µm/µm")
    height_rms: float = ranged(0.25, 0, 50, "µm")
    height_scale: float = ranged(150.0, 5, 5000, "µm")
    astigmatism: tuple[float, float] = ranged((0.35, -0.25), -50, 50, "µm")
    stigmator_strength: float = ranged(8.0, 0.1, 100, "µm")
    radial_distortion: float = ranged(0.15, -60, 60, "px")
    field_distortion: float = ranged(0.1, 0, 60, "px")


@dataclass(frozen=True)
class CameraSettings(Settings):
    """The sensor and its electronics.

    Attributes
    ----------
    sensor : (int, int)
        (height, width), in px.
    counts_per_electron : float
    gain_spread : float
        Standard deviation of the sensitivity from pixel to pixel, as a fraction.
    offset, offset_spread : float
        Level of a dark frame, and its standard deviation from column to column, in counts.
    dark_current : float
        In counts per s and px.
    read_noise : float
        Standard deviation, in counts.
    mtf_nyquist : float
        Modulation transfer at half a cycle per px; the transfer is a Gaussian through it.
    hot_fraction, dead_fraction : float
        Share of pixels that are bright in the dark, and of those that see nothing.
    hot_current : float
        Mean of what a hot pixel adds, in counts per s.
    saturation : int
        Largest count that is read.
    grey_step : int
        Counts in one grey level of an 8-bit frame.
    min_exposure, max_exposure : float
        In s.
    readout_time : float
        Time from the end of an exposure until its frame can be had, in s.
    timeout : float
        Time after the end of an exposure when a camera that does not answer is given up, in s.
    unread_frames : int
        Frames that the camera keeps until they are read.
    temperature : float
        What the sensor is cooled to at the start, in °C.
    """

    sensor: tuple[int, int] = ranged((2048, 2048), 16, 16384, "px")
    counts_per_electron: float = ranged(8.0, 0.01, 1000, "counts")
    gain_spread: float = ranged(0.02, 0, 0.5)
    offset: float = ranged(200.0, 0, 10_000, "counts")
    offset_spread: float = ranged(2.0, 0, 1000, "counts")
    dark_current: float = ranged(5.0, 0, 1e5, "counts/s")
    read_noise: float = ranged(6.0, 0, 1000, "counts")
    mtf_nyquist: float = ranged(0.16, 0.02, 0.9)
    hot_fraction: float = ranged(1e-5, 0, 0.01)
    dead_fraction: float = ranged(1e-5, 0, 0.01)
    hot_current: float = ranged(2e4, 0, 1e7, "counts/s")
    saturation: int = ranged(65535, 255, 65535, "counts")
    grey_step: int = ranged(128, 1, 257, "counts")
    min_exposure: float = ranged(0.001, 1e-6, 10, "s")
    max_exposure: float = ranged(60.0, 0.01, 3600, "s")
    readout_time: float = ranged(0.0, 0, 60, "s")
    timeout: float = ranged(1.0, 0, 600, "s")
    unread_frames: int = ranged(2, 1, 64)
    temperature: float = ranged(-10.0, -60, 40, "°C")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sensor) != 2 or any(side != int(side) for side in self.sensor):
            raise SettingsError(
                f"CameraSettings.sensor is {self.sensor!r}; give (height, width) in whole px"
            )
        if self.min_exposure > self.max_exposure:
            raise SettingsError(
                f"CameraSettings.min_exposure is {self.min_exposure:g} s, "
                f"over the max_exposure of {self.max_exposure:g} s"
            )


@dataclass(frozen=True)
class AxisSettings(Settings):
    """One axis of the stage, in µm or degrees.

    Attributes
    ----------
    low, high : float
        Soft limits, both included.
    speed, max_speed : float
        Units per s.
    acceleration : float
        Units per s².
    backlash : float
        Play between the drive, which the encoder sits on, and the specimen.
    jitter : float
        Standard deviation of the error that no two moves share.
    encoder_noise : float
        Standard deviation of the readback.
    """

    low: float = ranged(-1000.0, -1e5, 1e5)
    high: float = ranged(1000.0, -1e5, 1e5)
    speed: float = ranged(1000.0, 1e-3, 1e6)
    max_speed: float = ranged(2000.0, 1e-3, 1e6)
    acceleration: float = ranged(20_000.0, 1e-3, 1e8)
    backlash: float = ranged(0.05, 0, 100)
    jitter: float = ranged(0.03, 0, 100)
    encoder_noise: float = ranged(0.002, 0, 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise SettingsError(f"AxisSettings.low is {self.low:g}, not under high {self.high:g}")
        if self.speed > self.max_speed:
            raise SettingsError(
                f"AxisSettings.speed is {self.speed:g}; "
                f"it must lie between 0 and max_speed {self.max_speed:g}"
            )


@dataclass(frozen=True)
class StageSettings(Settings):
    """The stage, its errors, and the aperture changer.

    Attributes
    ----------
    x, y, z, tilt : AxisSettings
    repeatable_error : float
        Standard deviation of the smooth error of position along each axis, in µm.
    error_scales : (float, float)
        Shortest and longest wavelength of it, in µm.
    screw_error, screw_pitch : float
        Amplitude and period of the lead screws' error, in µm.
    vibration : float
        Amplitude after a move, in µm.
    vibration_decay : float
        Time in which it falls to 1/e, in s.
    vibration_frequency : float
        In Hz.
    drift : (float, float)
        Thermal drift that the stage settles by, in µm along x and y.
    drift_time : float
        Time constant of that, in s.
    drift_wander : float
        Amplitude of a slow wander, in µm.
    aperture_time : float
        Time to wind from one aperture to the next, in s.
    aperture_jitter : float
        Standard deviation of where the tape stops, in µm.
    """

    x: AxisSettings = AxisSettings()
    y: AxisSettings = AxisSettings()
    z: AxisSettings = AxisSettings(
        -300.0, 300.0, 50.0, 100.0, 500.0, backlash=0.1, jitter=0.01, encoder_noise=0.005
    )
    tilt: AxisSettings = AxisSettings(
        -60.0, 60.0, 10.0, 20.0, 50.0, backlash=0.0, jitter=0.0, encoder_noise=0.001
    )
    repeatable_error: float = ranged(0.6, 0, 100, "µm")
    error_scales: tuple[float, float] = ranged((80.0, 120.0), 1, 1e5, "µm")
    screw_error: float = ranged(0.14, 0, 100, "µm")
    screw_pitch: float = ranged(43.0, 0.1, 1e4, "µm")
    vibration: float = ranged(0.15, 0, 100, "µm")
    vibration_decay: float = ranged(0.025, 1e-4, 100, "s")
    vibration_frequency: float = ranged(45.0, 0.1, 1000, "Hz")
    drift: tuple[float, float] = ranged((0.25, -0.15), -100, 100, "µm")
    drift_time: float = ranged(1800.0, 1, 1e6, "s")
    drift_wander: float = ranged(0.02, 0, 100, "µm")
    aperture_time: float = ranged(0.8, 0, 600, "s")
    aperture_jitter: float = ranged(3.0, 0, 1000, "µm")
