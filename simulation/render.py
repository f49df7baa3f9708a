"""Make frames: from a view of the specimen to the numbers that the camera's electronics give.

Fetch the texture, blur it, sample it on the sensor's pixels, light it, digitise it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from processing.geometry import FrameGeometry
from simulation import blur
from simulation.beam import Beam
from simulation.distortion import Distortion
from simulation.optics import Optics
from simulation.resample import BLOCK, Light, Places, digitise, expose, illuminate
from simulation.seeds import frame_rng
from simulation.sensor import fringes, opening
from simulation.settings import CameraSettings, ImperfectionSettings
from simulation.specimen.base import COARSEST_LEVEL, level_for

NM_PER_UM = 1000.0
BANK_SIZE = 2**20
SHADE_PITCH = 32
"""Distance of the nodes between which what is smooth over the sensor is linear, in px."""
FIXED_TO_SENSOR = frozenset({"fringes", "dark_corners"})


class NativeRegion(Protocol):
    """Stored pixels of a specimen at one level, and the place of the centre of pixel [0, 0]."""

    @property
    def pixels(self) -> NDArray[np.generic]:
        """Transmission: `uint8` in steps of 1/255, or `float32`; shape (height, width)."""

    @property
    def x(self) -> float:
        """In µm."""

    @property
    def y(self) -> float:
        """In µm."""


class Texture(Protocol):
    """What the renderer needs of a specimen."""

    def native_region(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> NativeRegion:
        """Give the stored pixels that cover a rectangle; x and y are its middle."""

    def prefetch(
        self, x: float, y: float, width_um: float, height_um: float, pixel_size: float
    ) -> None:
        """Make the texture of a rectangle ready in the background."""


@dataclass(frozen=True)
class View:
    """All that one frame depends on.

    Attributes
    ----------
    number : int
        Of the frame; the noise comes from it.
    specimen : Texture
    x, y : float
        Place of the specimen at the middle of the frame, in µm.
    tilt : float
        In degrees, about stage x.
    geometry : FrameGeometry
        Of the sensor's pixels, as it truly is.
    optics : Optics
    path : ndarray of float64, shape (2, n)
        Motion in the exposure about (x, y), in nm.
    beam : Beam or None
        None if no beam falls on the camera.
    exposure : float
        In s.
    distortion : Distortion
    warp : ndarray of float64, shape (2, 2)
        Affine map of the frame's own, from where the geometry says that a pixel looks to where it
        does: of stage vectors from the middle of the frame.
    shade : ndarray of float32, shape (n, m), or None
        What is smooth over the sensor and changes the light: a factor at nodes that are
        `SHADE_PITCH` apart, from pixel (0, 0) to beyond the last; None is 1.
    conditions : frozenset of str
        Of `simulation.faults.CONDITIONS`: those that are there.
    binning : int
    bits : int
        8 or 16.
    """

    number: int
    specimen: Texture
    x: float
    y: float
    tilt: float
    geometry: FrameGeometry
    optics: Optics
    path: NDArray[np.float64]
    beam: Beam | None
    exposure: float
    distortion: Distortion
    warp: NDArray[np.float64]
    shade: NDArray[np.float32] | None = None
    conditions: frozenset[str] = frozenset()
    binning: int = 1
    bits: int = 16

    @property
    def to_stage(self) -> NDArray[np.float64]:
        """The (2, 2) matrix from sensor px (row, column) to the specimen (x, y) in µm."""
        # A tilted specimen is foreshortened along y: a pixel covers more of it.
        foreshortening = np.diag([1.0, 1 / np.cos(np.radians(self.tilt))])
        return foreshortening @ self.warp @ self.geometry.matrix


class FrameRenderer:
    """Makes the frames of one camera; the same view gives the same frame, bit for bit.

    Parameters
    ----------
    settings : CameraSettings
    imperfections : ImperfectionSettings
        Fringes and dark corners of it, where a view has them.
    seed : numpy.random.SeedSequence
        Of the sensor's pattern and of the noise.
    """

    def __init__(
        self,
        settings: CameraSettings,
        imperfections: ImperfectionSettings,
        seed: np.random.SeedSequence,
    ) -> None:
        self.settings = settings
        self._imperfections = imperfections
        height, width = settings.sensor
        pattern_seed, bank_seed, self._noise_seed = seed.spawn(3)
        rng = np.random.default_rng(pattern_seed)
        self.gain = 1 + settings.gain_spread * rng.standard_normal((height, width), np.float32)
        self.offset = settings.offset + settings.offset_spread * rng.standard_normal(width)
        self.hot = self._some_pixels(settings.hot_fraction, rng)
        self.hot_current = settings.hot_current * rng.exponential(1.0, len(self.hot[0]))
        self.dead = self._some_pixels(settings.dead_fraction, rng)
        self.gain[self.dead] = 0
        bank_rng = np.random.default_rng(bank_seed)
        self._bank = bank_rng.standard_normal(BANK_SIZE + width, np.float32)
        self._responses = {frozenset[str](): self.gain}
        self._buffers = threading.local()

    def _some_pixels(
        self, fraction: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        size = self.settings.sensor[0] * self.settings.sensor[1]
        places = rng.choice(size, round(size * fraction), replace=False)
        rows, columns = np.unravel_index(places, self.settings.sensor)
        return rows, columns

    def render(self, view: View) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Make a frame.

        Parameters
        ----------
        view : View

        Returns
        -------
        ndarray of uint8 or uint16, shape (height // binning, width // binning)
        """
        signal = self.expected(view)
        self._add_hot_pixels(signal, view)
        s, n = self.settings, view.binning
        divisor = 1 if view.bits == 16 else s.grey_step
        top = min(s.saturation // divisor, 2**view.bits - 1)
        frame = np.empty(signal.shape, np.uint8 if view.bits == 8 else np.uint16)
        digitise(
            signal, self._binned_offset(n), s.dark_current * view.exposure * n * n,
            s.counts_per_electron, s.read_noise, self._bank, self._starts(view, signal.shape[0]),
            divisor, top, frame,
        )  # fmt: skip
        return frame

    def expected(self, view: View) -> NDArray[np.float32]:
        """Work out the counts that the electrons of the beam make, before any noise.

        Returns
        -------
        ndarray of float32, shape (height // binning, width // binning)
            It is written over by the next call on this thread.
        """
        height, width = self.settings.sensor
        shape = height // view.binning, width // view.binning
        if view.beam is None:
            return np.zeros(shape, np.float32)
        signal = self._buffer("signal", shape)
        texture, places = self._texture(view, self._peak(view, view.beam))
        light = Light(self._illumination(view, view.beam), *self._shade(view))
        expose(texture, places, light, view.binning, signal)
        return signal

    def light(self, view: View, places: int = 9) -> NDArray[np.float64]:
        """Return the light over the frame without a specimen, as a share of the beam's peak.

        Returns
        -------
        ndarray of float64, shape (places, places)
            At places evenly spaced from the first to the last pixel of the sensor.
        """
        if view.beam is None:
            return np.zeros((places, places))
        rows, columns = (np.linspace(0, side - 1, places) for side in self.settings.sensor)
        pixels = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        vectors = view.geometry.stage_vector(pixels - FrameGeometry.middle(self.settings.sensor))
        light = view.beam.share(vectors)
        if view.shade is not None:
            at = np.meshgrid(rows / SHADE_PITCH, columns / SHADE_PITCH, indexing="ij")
            light *= map_coordinates(view.shade.astype(float), at, order=1)
        return light

    def field_of_view(self, to_stage: NDArray[np.float64]) -> tuple[float, float]:
        """Give width and height in µm of the box on the specimen that a frame shows."""
        height, width = self.settings.sensor
        reach = np.abs(to_stage) @ (height, width)
        return float(reach[0]), float(reach[1])

    # -- texture --------------------------------------------------------------------------------

    def _buffer(self, name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Give memory of this thread's own, not cleared: fresh pages cost as much as the work."""
        buffer: NDArray[np.float32] | None = getattr(self._buffers, name, None)
        if buffer is None or buffer.size < shape[0] * shape[1]:
            buffer = np.empty(shape[0] * shape[1], np.float32)
            setattr(self._buffers, name, buffer)
        return buffer[: shape[0] * shape[1]].reshape(shape)

    def _texture(self, view: View, peak: float) -> tuple[NDArray[np.float32], Places]:
        """Fetch and blur the texture, in counts, and find where the sensor's pixels lie in it."""
        level = level_for(view.geometry.pixel_size)
        radius = self._radius(view, level)
        while radius > blur.LARGEST_RADIUS and level < COARSEST_LEVEL:
            level *= 2
            radius = self._radius(view, level)
        places = self._places(view)
        fine, pitch = self._fine(view)
        low, high = self._bounds(places)
        low, high = low - np.abs(fine).max(), high + np.abs(fine).max()
        margin = (radius + 4) * level / NM_PER_UM
        middle, size = (low + high) / 2, high - low + 2 * margin
        region = view.specimen.native_region(
            view.x + middle[0], view.y + middle[1], size[0], size[1], level
        )
        point = blur.kernel(
            view.optics,
            view.path,
            pixel_size=view.geometry.pixel_size,
            mtf_nyquist=self.settings.mtf_nyquist,
            level=level,
            radius=radius,
        )
        point *= peak / 255 if region.pixels.dtype == np.uint8 else peak
        texture = blur.apply(region.pixels, point, self._buffer("texture", region.pixels.shape))
        scale = NM_PER_UM / level
        column_places = places[0] * scale
        column_places[:, 0] += (view.x - region.x) * scale
        row_places = -places[1] * scale
        row_places[:, 0] += (region.y - view.y) * scale
        in_texture = np.stack([-fine[1], fine[0]]) * scale
        return texture, Places(row_places, column_places, in_texture, pitch)

    def _radius(self, view: View, level: int) -> int:
        pixel_size = view.geometry.pixel_size
        return blur.radius_of(view.optics, view.path, pixel_size, level)

    def _places(self, view: View) -> NDArray[np.float64]:
        """Write where each sensor row lies on the specimen as polynomials of the column.

        Returns
        -------
        ndarray of float64, shape (2, height, n)
            For x and y, relative to the middle of the frame, in µm; coefficients of the powers of
            the column minus the middle column.
        """
        height, _ = self.settings.sensor
        row = np.arange(height) - (height - 1) / 2
        radius, coefficients = view.distortion.radius, view.distortion.coefficients
        exponents = np.arange(coefficients.shape[1])
        # coefficients[a, i, j] v^i u^j, summed over i for each row, then u in px
        powers = (row / radius)[:, None] ** exponents
        pixels = np.einsum("ri,aij->arj", powers, coefficients)
        pixels /= radius**exponents
        pixels[0, :, 0] += row
        pixels[1, :, 1] += 1
        return np.einsum("sa,arj->srj", view.to_stage, pixels)

    def _fine(self, view: View) -> tuple[NDArray[np.float64], int]:
        """Return what the fine part of the distortion adds to the places on the specimen.

        Returns
        -------
        ndarray of float64, shape (2, m, n_blocks + 1)
            For x and y, in µm, at rows that are a pitch apart and at the first column of each
            block.
        int
            The pitch, in px.
        """
        height, width = self.settings.sensor
        columns = np.arange(ceil(width / BLOCK) + 1) * float(BLOCK)
        fine = view.distortion.fine
        if fine is None:
            return np.zeros((2, 2, columns.size)), height
        rows = np.arange(ceil(height / fine.pitch) + 1) * float(fine.pitch)
        shifts = fine.shift(*np.meshgrid(rows, columns, indexing="ij"))
        return np.einsum("sa,rca->src", view.to_stage, shifts), fine.pitch

    def _bounds(
        self, places: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Find the box on the specimen that holds all the places that are sampled, in µm."""
        width = self.settings.sensor[1]
        wide = ceil(width / BLOCK) * BLOCK
        column = np.linspace(-(width - 1) / 2, wide - (width + 1) / 2, 33)
        rows = np.unique(np.linspace(0, places.shape[1] - 1, 65).astype(int))
        shown = places[:, rows] @ column[None, :] ** np.arange(places.shape[2])[:, None]
        return shown.min(axis=(1, 2)), shown.max(axis=(1, 2))

    # -- light ----------------------------------------------------------------------------------

    def _peak(self, view: View, beam: Beam) -> float:
        """Give the counts of a sensor pixel in the middle of the beam without a specimen."""
        area = (view.geometry.pixel_size / NM_PER_UM) ** 2
        return beam.electrons * area * self.settings.counts_per_electron

    def _illumination(self, view: View, beam: Beam) -> NDArray[np.float32]:
        """Give each sensor pixel's share of the peak without a specimen; the last is kept."""
        to_beam = beam.to_edge @ view.geometry.matrix
        middle = FrameGeometry.middle(self.settings.sensor)
        start = -to_beam @ middle - beam.to_edge @ beam.middle
        to_beam = np.column_stack([to_beam, start])
        fixed = view.conditions & FIXED_TO_SENSOR
        key = (to_beam.tobytes(), beam.edge, beam.falloff, fixed)
        bright = self._buffer("bright", self.settings.sensor)
        if getattr(self._buffers, "lit", None) != key:
            illuminate(self._response(fixed), to_beam, beam.edge, beam.falloff, bright)
            self._buffers.lit = key
        return bright

    def _response(self, fixed: frozenset[str]) -> NDArray[np.float32]:
        """Return what each sensor pixel makes of light, with some things fixed to the sensor."""
        if fixed not in self._responses:
            response = self.gain
            if "fringes" in fixed:
                response = response * fringes(self._imperfections.fringes, self.settings.sensor)
            if "dark_corners" in fixed:
                dark = self._imperfections.dark_corners
                response = response * opening(dark, self.settings.sensor)
            self._responses[fixed] = response
        return self._responses[fixed]

    def _shade(self, view: View) -> tuple[NDArray[np.float32], int]:
        """Return the nodes of what is smooth over the sensor, at the first column of each block."""
        height, width = self.settings.sensor
        columns = np.arange(ceil(width / BLOCK) + 1) * (BLOCK / SHADE_PITCH)
        if view.shade is None:
            return np.ones((2, columns.size), np.float32), height
        nodes = np.arange(view.shade.shape[1])
        between = [np.interp(columns, nodes, row) for row in view.shade]
        return np.array(between, np.float32), SHADE_PITCH

    # -- electronics ----------------------------------------------------------------------------

    def _add_hot_pixels(self, signal: NDArray[np.float32], view: View) -> None:
        n = view.binning
        rows, columns = self.hot[0] // n, self.hot[1] // n
        inside = (rows < signal.shape[0]) & (columns < signal.shape[1])
        np.add.at(
            signal,
            (rows[inside], columns[inside]),
            (self.hot_current[inside] * view.exposure).astype(np.float32),
        )

    def _binned_offset(self, binning: int) -> NDArray[np.float32]:
        used = self.offset.size // binning * binning
        return self.offset[:used].reshape(-1, binning).mean(axis=1).astype(np.float32)

    def _starts(self, view: View, rows: int) -> NDArray[np.int64]:
        """Choose where in the bank of noise each row of a frame begins."""
        return frame_rng(self._noise_seed, view.number).integers(0, BANK_SIZE, rows)
