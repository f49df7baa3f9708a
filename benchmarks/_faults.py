"""Montages of the virtual microscope with a known fault in some of their tiles.

Each fault is made as it comes about: at the lenses, the beam, the stage or before the specimen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, radians, sin, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processing.flatfield import References, make_references
from processing.geometry import Region, plan_grid
from processing.geometry.grid import Grid, GridTile
from processing.quality import faults as named
from simulation import MicroscopeSettings, VirtualMicroscope
from simulation.specimen import Bar, Obstructed

SEMI_ANGLE = 1.0  # mrad: of the microscope's illumination, which makes the blur of defocus
BEST_FOCUS = -3.2  # setting of the column that focuses the middle of the section, in µm
FULL_SCALE = 65535.0  # counts
PLAY = 0.3  # µm that the stage is sent too far and back, to leave its play behind
FILM_FROM, FILM = 300.0, 242  # µm from the middle; transmission × 255
ELSEWHERE = 47.0  # µm from its place, in any direction, where a tile shows something else

STRENGTHS: dict[str, tuple[float, ...]] = {
    named.OUT_OF_FOCUS: (0.35, 0.5, 0.7, 1.0, 1.5),
    named.ASTIGMATIC: (0.35, 0.5, 0.7, 1.0),
    named.DRIFTED: (2.0, 3.0, 4.0, 7.0),
    named.DIM: (0.6, 0.4, 0.2),
    named.SATURATED: (1.0, 2.0),
    named.BEAM_EDGE: (0.03, 0.1, 0.3),
    named.OBSTRUCTED: (0.03, 0.1, 0.3),
    named.NO_MATCH: (1.0,),
    named.OFFSET_BEYOND_LIMIT: (150.0, 180.0),
}
"""How strong faults are made. Defocus and astigmatism: standard deviation of their blur, in px (at
4 nm a px 0.7 px is 4 µm of defocus, or of half the difference of the foci). Drift: px in the
exposure. Dim: the exposure relative to the others'. Saturated: what an empty place would count,
relative to full scale. Beam's edge and obstruction: share of the tile. Offset: px from the nominal
place."""

STATED = {
    named.OUT_OF_FOCUS: 0.7,
    named.ASTIGMATIC: 0.7,
    named.DRIFTED: 3.0,
    named.DIM: 0.4,
    named.SATURATED: 2.0,
    named.BEAM_EDGE: 0.1,
    named.OBSTRUCTED: 0.1,
    named.NO_MATCH: 1.0,
    named.OFFSET_BEYOND_LIMIT: 150.0,
}
"""From these strengths on a fault must be found; weaker ones are told beside."""

LESS_IS_STRONGER = frozenset({named.DIM})
STATED_RUNS, WEAKER_RUNS = 4, 1  # of each kind in a montage
# A lens does not change from one tile to the next: so many in a row have it, and half the runs do.
LASTING = {named.ASTIGMATIC: 4}


@dataclass(frozen=True)
class Injected:
    """A fault that was made: its name and how strong it is; the name is "" where there is none."""

    name: str = ""
    strength: float = 0.0


@dataclass(frozen=True, eq=False)
class Shot:
    """A tile that was taken: its place in the grid, its frame, and what was done to it."""

    tile: GridTile
    frame: NDArray[np.uint16]
    injected: Injected


class OnFilm:
    """A micrograph that ends, with bare film beyond: bright frames of tissue would be no reference.

    Parameters
    ----------
    specimen : Specimen
        Without end.
    """

    def __init__(self, specimen: Any) -> None:
        self._specimen = specimen

    def native_region(self, x: float, y: float, width: float, height: float, level: int) -> Any:
        """Return the specimen's pixels, or those of film."""
        region = self._specimen.native_region(x, y, width, height, level)
        if abs(x) > FILM_FROM:
            region.pixels[:] = FILM
        return region

    def prefetch(self, *where: float) -> None:
        """Have the specimen's texture made ready in the background."""
        self._specimen.prefetch(*where)

    def close(self) -> None:
        """Stop the specimen's work in the background."""
        self._specimen.close()


class FaultyMicroscope:
    """A microscope over a specimen that takes montages with faults.

    Parameters
    ----------
    specimen : Specimen
    settings : MicroscopeSettings
        Its stigmators are made stronger.
    exposure : float
        In s.
    """

    def __init__(self, specimen: Any, settings: MicroscopeSettings, exposure: float) -> None:
        self._now = 0.0
        self._specimen = Obstructed(specimen)
        settings = settings.updated({"optics": {"stigmator_strength": 25.0}})
        self._scope = VirtualMicroscope(
            settings, self._specimen, clock=lambda: self._now, sleep=self._sleep
        )
        self._side, self._exposure = settings.camera.sensor[0], exposure
        self._rng = np.random.default_rng(settings.seed)
        self.geometry = self._scope.column.geometry
        self._intrinsic = settings.optics.astigmatism
        self._full_scale = settings.optics.stigmator_strength
        self._radius = self._scope.column.state().beam_spread / 2
        self._soft = settings.column.beam_edge * self._radius
        self._beam_offset = settings.column.beam_offset
        self._empty = 1.0  # mean count of an empty place
        self._stigmate(0.0, 0.0)
        self._scope.column.set("defocus", BEST_FOCUS)

    def references(self, frames: int = 12) -> References:
        """Take bright frames on the film beside the section, and dark ones."""
        beside = 400.0
        bright = [self._shoot(beside + 3 * i, 0.0) for i in range(frames)]
        self._scope.column.set("screen", "Down")
        dark = [self._shoot(beside, 0.0) for _ in range(frames)]
        self._scope.column.set("screen", "Up")
        self._empty = float(np.mean(bright))
        return make_references(np.stack(bright), np.stack(dark))

    def grid(self, x: float, y: float, tiles: int, overlap: float) -> Grid:
        """Plan a square montage about a place in µm."""
        pitch = self._side * self.geometry.pixel_size / 1000 * (1 - overlap / 100)
        size = pitch * tiles * 0.999
        region = Region.rectangle((x, y), size, size, self.geometry.angle)
        return plan_grid(region, self.geometry, (self._side, self._side), overlap=overlap)

    def take(self, grid: Grid, faults: Sequence[Injected]) -> Iterator[Shot]:
        """Take a montage, with a fault (or none) in each tile."""
        stigmators = (0.0, 0.0)
        before = Injected()
        for tile, fault in zip(grid.tiles, faults, strict=True):
            if fault.name == named.ASTIGMATIC and fault != before:
                turn = self._rng.uniform(0, 2 * np.pi)
                stigmators = (cos(turn), sin(turn))
            before = fault
            yield Shot(tile, self._take(tile, fault, stigmators), fault)

    def close(self) -> None:
        """Stop work in the background."""
        self._scope.close()

    # One tile

    def _take(
        self, tile: GridTile, fault: Injected, stigmators: tuple[float, float]
    ) -> NDArray[np.uint16]:
        column, strength = self._scope.column, fault.strength
        sign = self._rng.choice((-1.0, 1.0))
        x, y, exposure = tile.x, tile.y, self._exposure
        drift = 0.0
        if fault.name == named.OUT_OF_FOCUS:
            column.set("defocus", BEST_FOCUS + sign * self._defocus_of(strength))
        elif fault.name == named.ASTIGMATIC:
            size = self._defocus_of(strength)
            self._stigmate(size * stigmators[0], size * stigmators[1])
            # Between one line focus and the other there is a place where it only looks blurred.
            column.set("defocus", BEST_FOCUS + sign * size * self._rng.uniform(0.6, 1.0))
        elif fault.name == named.DRIFTED:
            drift = strength * self.geometry.pixel_size / 1000 / exposure
        elif fault.name == named.DIM:
            exposure *= strength
        elif fault.name == named.SATURATED:
            exposure *= strength * FULL_SCALE / self._empty
        elif fault.name == named.BEAM_EDGE:
            self._move_beam(strength)
        elif fault.name == named.OBSTRUCTED:
            self._go({"x": x, "y": y})
            self._specimen.bars = (self._bar(strength),)
        elif fault.name == named.NO_MATCH:
            turn = self._rng.uniform(0, 2 * np.pi)
            x, y = x + ELSEWHERE * cos(turn), y + ELSEWHERE * sin(turn)
        elif fault.name == named.OFFSET_BEYOND_LIMIT:
            off = sign * strength * np.roll((1.0, 0.0), self._rng.integers(2))
            x, y = np.array([x, y]) + self.geometry.stage_vector(off)
        frame = self._shoot(float(x), float(y), exposure, drift)
        self._set_right()
        return frame

    def _set_right(self) -> None:
        self._scope.column.set("defocus", BEST_FOCUS)
        self._scope.column.set("beam_x", 0.0)
        self._scope.column.set("beam_y", 0.0)
        self._stigmate(0.0, 0.0)
        self._specimen.bars = ()

    def _shoot(
        self, x: float, y: float, exposure: float | None = None, drift: float = 0.0
    ) -> NDArray[np.uint16]:
        """Take a frame, with the stage moving at a speed in µm/s along any direction."""
        stage, turn = self._scope.stage, self._rng.uniform(0, 2 * np.pi)
        speeds = {"x": drift * cos(turn), "y": drift * sin(turn)}
        here = {"x": x, "y": y}
        if drift:
            self._go({axis: here[axis] - np.copysign(PLAY, speeds[axis]) for axis in here})
        self._go(here)
        for axis, speed in speeds.items():
            if abs(speed) > 1e-3:
                stage.set_speed(axis, abs(speed))
                stage.move(**{axis: here[axis] + np.copysign(20.0, speed)})
        self._sleep(0.005 if drift else 0.0)
        self._scope.camera.expose(self._exposure if exposure is None else exposure)
        frame = self._scope.camera.read().data.astype(np.uint16, copy=False)
        stage.stop()
        return frame

    def _go(self, place: dict[str, float]) -> None:
        for axis in place:
            self._scope.stage.set_speed(axis, 1000.0)
        self._scope.stage.move(**place)
        self._sleep(1.0)

    def _sleep(self, seconds: float) -> None:
        self._now += seconds

    def _defocus_of(self, blur: float) -> float:
        """Give the defocus whose blur has a standard deviation, in px, along each axis; in µm."""
        return blur * self.geometry.pixel_size * sqrt(2) / SEMI_ANGLE  # nm over mrad

    def _stigmate(self, a: float, b: float) -> None:
        """Set the astigmatism, its intrinsic part included, in µm."""
        column = self._scope.column
        column.set("stigmator_x", (a - self._intrinsic[0]) / self._full_scale)
        column.set("stigmator_y", (b - self._intrinsic[1]) / self._full_scale)

    def _move_beam(self, share: float) -> None:
        """Move the beam so that a share of the tile has under a quarter of the light."""
        half = self._side * self.geometry.pixel_size / 2000
        quarter = self._radius + self._soft * np.log(3)
        away, turn = quarter - half * (1 - 2 * share), self._rng.integers(4) * np.pi / 2
        turn += radians(self.geometry.angle)
        self._scope.column.set("beam_x", away * cos(turn) - self._beam_offset[0])
        self._scope.column.set("beam_y", away * sin(turn) - self._beam_offset[1])

    def _bar(self, share: float) -> Bar:
        """Make a bar that runs through the tile, where the stage really is."""
        size = self._side * self.geometry.pixel_size / 1000
        place = self._scope.stage.true_position()
        off = self._rng.uniform(-0.2, 0.2, 2) * size
        return Bar(
            place["x"] + off[0], place["y"] + off[1], self._rng.uniform(0, 180), share * size
        )


def choose_faults(n: int, rng: np.random.Generator) -> list[Injected]:
    """Choose which tiles of a montage get which fault, at random and independent of each other.

    Parameters
    ----------
    n : int
        Tiles.
    rng : numpy.random.Generator

    Returns
    -------
    list of Injected, length n

    Raises
    ------
    ValueError
        If the montage has no room for all kinds.
    """
    runs = [run for name in STRENGTHS for run in _runs(name, rng)]
    n_good = n - sum(map(len, runs))
    if n_good < 0:
        raise ValueError(f"{n} tiles are too few: {n - n_good} are to have a fault")
    runs += [[Injected()]] * n_good
    return [fault for i in rng.permutation(len(runs)) for fault in runs[i]]


def is_stated(fault: Injected) -> bool:
    """Tell whether a fault is so strong that it must be found."""
    least = STATED[fault.name]
    return fault.strength <= least if fault.name in LESS_IS_STRONGER else fault.strength >= least


def _runs(name: str, rng: np.random.Generator) -> Iterator[list[Injected]]:
    """Give the tiles in a row that have the faults of one kind in a montage."""
    every = [Injected(name, strength) for strength in STRENGTHS[name]]
    length = LASTING.get(name, 1)
    for stated, n in ((True, STATED_RUNS), (False, WEAKER_RUNS)):
        kinds = [fault for fault in every if is_stated(fault) == stated]
        for _ in range(n if length == 1 else (n + 1) // 2) if kinds else ():
            yield [kinds[rng.integers(len(kinds))]] * length
