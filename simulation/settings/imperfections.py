"""Settings of what is wrong with real microscopes, cameras and sections: a group for each fault.

All are off by default. Their strengths are those of real instruments; each group names its source.
Where it says "the 20 Mpx montage", that is a montage of 4 969 tiles of 3840² px at 3.85 nm, taken
by a TEMCA with ten matched points an edge (test files of em_stitch 0.3.4, Allen Institute).
"""

from __future__ import annotations

from dataclasses import dataclass

from simulation.errors import SettingsError
from simulation.settings.base import Settings, ranged

LENS_DEGREES = (2, 3, 4, 5, 6, 7)
FINE_STEP = 16
"""Sensor pixels that are sampled together, `simulation.resample.BLOCK`: nodes lie between them."""


@dataclass(frozen=True)
class Imperfection(Settings):
    """What all have: whether it is there from the start.

    Attributes
    ----------
    enabled : bool
    """

    enabled: bool = False


@dataclass(frozen=True)
class LensFieldSettings(Imperfection):
    """Distortion by the projector lenses and the camera, the same in every frame.

    Parts of degree 2 to 7 are drawn by the seed. The strengths are those of a 3 × 3 lens set of
    3840² px (em_stitch 0.3.4; 16 078 matched points, fitted by a polynomial and a ridge-regularised
    affine map a tile): 20, 2.4, 1.1, 0.16, 0.10 and 0.07 px RMS, at most 65 px in the corners. A
    frame of 2048² px has 11 px RMS of it, and 30 to 45 px in the corners.

    Attributes
    ----------
    degrees : tuple of float
        RMS length over the frame of the part of each degree, 2 to 7, in thousandths of the
        sensor's shorter side.
    fine : float
        RMS length of the fixed irregular field that remains, by fibre optics or the lens set's
        own glass, in px. What the fit of degree 7 leaves in cells of 40 to 240 px, common to both
        halves of the points, is 0.03 to 0.04 px along an axis.
    fine_pitch : int
        Distance of its independent places, in px.
    """

    degrees: tuple[float, ...] = ranged((5.2, 0.63, 0.28, 0.04, 0.026, 0.02), 0, 50, "‰")
    fine: float = ranged(0.05, 0, 5, "px")
    fine_pitch: int = ranged(64, 16, 4096, "px")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.degrees) != len(LENS_DEGREES):
            raise SettingsError(
                f"LensFieldSettings.degrees is {self.degrees!r}; give {len(LENS_DEGREES)} numbers, "
                f"for the degrees {LENS_DEGREES[0]} to {LENS_DEGREES[-1]}"
            )
        if self.fine_pitch % FINE_STEP:
            raise SettingsError(
                f"LensFieldSettings.fine_pitch is {self.fine_pitch!r}; "
                f"it must be a multiple of {FINE_STEP} px"
            )


@dataclass(frozen=True)
class MagnificationDriftSettings(Imperfection):
    """Magnification and rotation that change over the section, with time, and with focus.

    In the 20 Mpx montage loops of four tiles do not close, by (0.14, −0.72) px (rows, columns) on
    the average, all of one sign, the more the earlier a row was taken: an image that is magnified
    by 1.0 to 2.0 · 10⁻⁴ more from row to row (13.6 µm), and turned by a fifth of that.

    With focus: illumination that converges or diverges makes the magnification depend on the height
    of the specimen over the plane in focus, by 0.1 to 0.5 % a µm at high magnification (G. van
    Duinen, M. van Heel and A. Patwardhan, Opt. Express 13 (2005) 9085); a refocused objective of
    focal length f magnifies by dz/f more, 3.6 · 10⁻⁴ a µm for f = 2.8 mm, and turns the image by
    half of that times its own rotation of some 40° (Reimer and Kohl, Transmission Electron
    Microscopy, 5th ed. (2008), ch. 2). The strength here is that of the lens.

    Attributes
    ----------
    gradient : (float, float)
        Growth of the magnification along stage x and y, in 10⁻⁶ a µm.
    rotation_gradient : (float, float)
        The same of the rotation, in 10⁻⁶ rad a µm.
    settling : float
        By how much more the first frame is magnified than one long after, in 10⁻⁶.
    settling_frames : float
        Frames in which that falls to 1/e.
    per_focus : float
        Growth with the defocus of the frame, in 10⁻⁶ a µm.
    rotation_per_focus : float
        In 10⁻⁶ rad a µm.
    """

    gradient: tuple[float, float] = ranged((0.5, 10.0), -1000, 1000, "ppm/µm")
    rotation_gradient: tuple[float, float] = ranged((0.5, 2.0), -1000, 1000, "µrad/µm")
    settling: float = ranged(600.0, -20_000, 20_000, "ppm")
    settling_frames: float = ranged(700.0, 1, 1e6)
    per_focus: float = ranged(360.0, -10_000, 10_000, "ppm/µm")
    rotation_per_focus: float = ranged(120.0, -10_000, 10_000, "µrad/µm")


@dataclass(frozen=True)
class TileDistortionSettings(Imperfection):
    """A small affine map of each tile: height and slope of the tape, and charge on the film.

    With the drift of the magnification, a ridge-regularised affine map a tile departs from the
    identity by 0.0012 RMS an element in the 20 Mpx montage. Its semivariance grows with the
    distance, from 1.2 · 10⁻⁴ between neighbours (with the noise of the points) to 10⁻³ at 440 µm,
    as waves of about a millimetre do. Tiles of the lens set, 6 µm apart, differ by 4 · 10⁻⁴.

    Attributes
    ----------
    own : float
        RMS of each of the four elements of a frame's own part, in 10⁻⁶.
    smooth : float
        RMS of each element of the part that is smooth over the section, in 10⁻⁶.
    smooth_scale : float
        Wavelength of that, in µm.
    """

    own: float = ranged(150.0, 0, 20_000, "ppm")
    smooth: float = ranged(650.0, 0, 20_000, "ppm")
    smooth_scale: float = ranged(1200.0, 10, 1e5, "µm")


@dataclass(frozen=True)
class UnevenLightSettings(Imperfection):
    """Light that is uneven over the sensor, and changes from frame to frame.

    The means of flat-fielded tiles of the 20 Mpx montage scatter by 0.4 % between neighbours, the
    specimen's own scatter among it, and wander by 1.5 % over the montage. Unevenness of raw frames
    is that of a condensed beam on a scintillator (field flatness of 10 to 20 % before correction).

    Attributes
    ----------
    amplitude : float
        RMS of the fixed part, as a fraction of the light.
    wander : float
        RMS of the part that changes in the course of frames, as a fraction.
    wander_frames : float
        Frames in which it goes to and fro.
    flicker : float
        RMS change of the whole light from one frame to the next, as a fraction.
    """

    amplitude: float = ranged(0.06, 0, 0.3)
    wander: float = ranged(0.01, 0, 0.3)
    wander_frames: float = ranged(150.0, 2, 1e6)
    flicker: float = ranged(0.003, 0, 0.3)


@dataclass(frozen=True)
class ChargingSettings(Imperfection):
    """The specimen charges when the beam first falls on it, and the image moves meanwhile.

    R. M. Glaeser and K. H. Downing, Microsc. Microanal. 10 (2004) 790; C. J. Russo and
    R. Henderson, Ultramicroscopy 187 (2018) 43: it is nanometres on insulating films without
    carbon, settles within a few e⁻/Å², and is weaker where electrons fell before.

    Attributes
    ----------
    shift : float
        RMS way of the image along each axis on a fresh specimen, in nm.
    settling_dose : float
        Dose in which the motion, and what charge the place still takes, fall to 1/e, in e⁻/Å².
    """

    shift: float = ranged(3.0, 0, 1000, "nm")
    settling_dose: float = ranged(0.3, 1e-3, 1e4, "e/Å²")


@dataclass(frozen=True)
class ContaminationSettings(Imperfection):
    """Carbon that grows under the beam, so that what was imaged before is darker.

    R. F. Egerton, P. Li and M. Malac, Micron 35 (2004) 399. The rate depends on the vacuum and the
    specimen; this one darkens the place of an autofocus (twenty frames) by some per cent, with the
    edge of the beam to be seen, as uncoated sections in a side-entry column do.

    Attributes
    ----------
    rate : float
        What is lost of the transmission for each e⁻/Å².
    """

    rate: float = ranged(0.002, 0, 1)


@dataclass(frozen=True)
class FringeSettings(Imperfection):
    """A fixed periodic pattern of the camera's sensitivity: fibres, or interference in its window.

    The flat field takes it out; frames without one show it in the same place in every tile.
    R. R. Meyer and A. I. Kirkland, Microsc. Res. Tech. 49 (2000) 269, on the gain of fibre-coupled
    cameras; a few per cent at the pitch of the fibres are usual.

    Attributes
    ----------
    amplitude : float
        As a fraction of the light.
    period : float
        In px.
    angle : float
        Of the direction across the fringes, from rows to columns, in degrees.
    """

    amplitude: float = ranged(0.03, 0, 1)
    period: float = ranged(9.3, 2, 1000, "px")
    angle: float = ranged(12.0, -180, 180, "deg")


@dataclass(frozen=True)
class DarkCornerSettings(Imperfection):
    """A round aperture or screen that leaves the sensor's corners black.

    Attributes
    ----------
    radius : float
        Of what is open, in half diagonals of the sensor: 0.94 hides 0.7 % of a square one.
    softness : float
        Width over which the light falls to nothing, in px.
    """

    radius: float = ranged(0.94, 0.3, 2)
    softness: float = ranged(3.0, 0.1, 1000, "px")


@dataclass(frozen=True)
class ImperfectionSettings(Settings):
    """What is wrong with the instrument.

    Each has a switch at run time by its name here (see `simulation.faults.CONDITIONS`).
    """

    lens_field: LensFieldSettings = LensFieldSettings()
    magnification_drift: MagnificationDriftSettings = MagnificationDriftSettings()
    tile_distortion: TileDistortionSettings = TileDistortionSettings()
    uneven_light: UnevenLightSettings = UnevenLightSettings()
    charging: ChargingSettings = ChargingSettings()
    contamination: ContaminationSettings = ContaminationSettings()
    fringes: FringeSettings = FringeSettings()
    dark_corners: DarkCornerSettings = DarkCornerSettings()


@dataclass(frozen=True)
class CompressionSettings(Imperfection):
    """A section is shorter along the cut than the block was, by the knife's wedge.

    D. Studer and H. Gnaegi, J. Microsc. 197 (2000) 94: 20 to 35 % in resin with a knife of 45°, and
    next to nothing with one that oscillates. Knives of 35° and warm water leave about a tenth.

    Attributes
    ----------
    amount : float
        As a fraction of the length.
    """

    amount: float = ranged(0.1, 0, 0.5)


@dataclass(frozen=True)
class KnifeMarkSettings(Imperfection):
    """Marks of the knife: regular waves across the cut (chatter), irregular streaks along it.

    R. Phillips, Br. J. Appl. Phys. 12 (1961) 554: vibration makes smooth waves of the thickness
    along the cut, defects of the edge make streaks. Periods of chatter are 0.1 µm to some µm.

    Attributes
    ----------
    chatter : float
        Amplitude of the waves, relative to the thickness.
    period : float
        Of the waves, in µm.
    streaks : float
        Strength of the streaks, relative to those of a section that was cut well.
    """

    chatter: float = ranged(0.06, 0, 1)
    period: float = ranged(0.9, 0.02, 100, "µm")
    streaks: float = ranged(2.0, 0, 100)


@dataclass(frozen=True)
class BareResinSettings(Imperfection):
    """Resin without tissue, such as in vessels, beside tissue and near the middle of the section.

    Attributes
    ----------
    spacing : float
        Mean distance of such places, in µm.
    size : float
        Largest diameter of one, in µm.
    """

    spacing: float = ranged(45.0, 5, 1000, "µm")
    size: float = ranged(14.0, 0.5, 500, "µm")


@dataclass(frozen=True)
class SectionSettings(Settings):
    """What is wrong with a section. It is cut once: there is no switch at run time."""

    compression: CompressionSettings = CompressionSettings()
    knife_marks: KnifeMarkSettings = KnifeMarkSettings()
    bare_resin: BareResinSettings = BareResinSettings()
