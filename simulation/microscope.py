"""The virtual microscope: stage, column and camera over one specimen, and the truth behind frames.

Here the parts are put together: where the camera looks, through which optics, in which light.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import atan2, ceil, degrees, hypot, nan, pi
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from simulation.beam import Beam, beam_peak
from simulation.blur import blur_size
from simulation.camera import Note, VirtualCamera
from simulation.clock import SimulationClock
from simulation.column import ColumnState, VirtualColumn, axes_of_beam
from simulation.distortion import Distortion
from simulation.dose import ANGSTROM2_PER_UM2, DoseMap, History
from simulation.faults import CONDITIONS, FaultSet
from simulation.frame_map import FrameMap
from simulation.imperfections import Imperfections
from simulation.optics import Optics, focal_spread, height_map, wavelength
from simulation.render import FrameRenderer, Texture, View
from simulation.scene import Exposure, Scene
from simulation.settings import MicroscopeSettings
from simulation.specimen.base import level_for
from simulation.stage import VirtualStage
from simulation.truth import FrameTruth, TruthStore

NM_PER_UM = 1000.0
PATH_STEP = 5e-4
MOST_PATH_STEPS = 2048
NEGLIGIBLE_MOTION = 0.01
PREFETCH_MARGIN = 1.2


DEFAULTS = MicroscopeSettings()


class Tape(Protocol):
    """A substrate with apertures and a specimen in each."""

    def __len__(self) -> int:
        """Say how many there are."""

    def specimen(self, index: int) -> Texture:
        """Give the specimen in an aperture, counted from 1."""


class VirtualMicroscope:
    """A transmission electron microscope with a stage, a column and a camera, made of numbers.

    The same settings, the same commands and the same clock give the same frames, bit for bit.

    Parameters
    ----------
    settings : MicroscopeSettings
    specimen : Specimen or Tape, optional
        What lies on the stage; none: an empty film.
    clock : callable
        Gives real seconds.
    sleep : callable
        Waits for so many real seconds.

    Attributes
    ----------
    stage : VirtualStage
    column : VirtualColumn
    camera : VirtualCamera
    faults : FaultSet
        What can be made to fail.
    conditions : FaultSet
        What is imperfect, as it is with real instruments; those are on that the settings enable.

    Examples
    --------
    >>> microscope = VirtualMicroscope(specimen=PointGrid(pitch_um=1.0))  # doctest: +SKIP
    >>> microscope.stage.move(x=10, y=-5)  # doctest: +SKIP
    >>> microscope.stage.wait()  # doctest: +SKIP
    >>> microscope.camera.expose(0.1)  # doctest: +SKIP
    >>> frame = microscope.camera.read()  # doctest: +SKIP
    """

    def __init__(
        self,
        settings: MicroscopeSettings = DEFAULTS,
        specimen: Texture | Tape | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.settings = settings
        self.clock = SimulationClock(clock, sleep, settings.time_scale)
        self.faults = FaultSet()
        self.conditions = FaultSet(
            CONDITIONS,
            [name for name in CONDITIONS if getattr(settings.imperfections, name).enabled],
        )
        self._specimen = specimen if specimen is not None else EmptyFilm()
        self._between_apertures = OpaqueTape()
        stage_seed, lens_seed, height_seed, camera_seed, imperfect_seed = np.random.SeedSequence(
            settings.seed
        ).spawn(5)
        self.column = VirtualColumn(settings.column, self.clock, self.faults)
        distortion = Distortion.make(
            settings.optics, settings.camera.sensor, np.random.default_rng(lens_seed)
        )
        self._imperfections = Imperfections(settings, distortion, imperfect_seed)
        self._history = History()
        self._height = height_map(settings.optics, np.random.default_rng(height_seed))
        self._renderer = FrameRenderer(settings.camera, settings.imperfections, camera_seed)
        self._truth = TruthStore()
        self.stage = VirtualStage(
            settings.stage,
            self.clock,
            self.faults,
            seed=stage_seed,
            n_apertures=len(specimen) if _is_tape(specimen) else 1,
            on_move=self._prefetch,
        )
        self.camera = VirtualCamera(
            settings.camera,
            self.clock,
            self.faults,
            self._renderer,
            scene=self._scene,
            struck=self._struck,
            see=self._see,
        )

    def close(self) -> None:
        """Stop work in the background: the specimen's texture that is made ahead."""
        close = getattr(self._specimen, "close", None)
        if close is not None:
            close()

    # -- truth ----------------------------------------------------------------------------------

    @property
    def distortion(self) -> Distortion:
        """That of the frames that are taken now."""
        return self._imperfections.distortion(frozenset(self.conditions.active()))

    def truth(self, frame: int) -> FrameTruth:
        """Give what was really behind a frame: for tests and figures of accuracy only.

        Parameters
        ----------
        frame : int
            Its number.

        Raises
        ------
        SimulationError
            If there is no such frame, or it is no longer kept.
        """
        return self._truth.get(frame)

    def map_at(self, x: float, y: float, number: int = 1) -> FrameMap:
        """Return the map that a frame would have, without taking it.

        Parameters
        ----------
        x, y : float
            Place of the specimen at its middle, in µm.
        number : int
            Of the frame.
        """
        state = self.column.state()
        geometry = self.column.true_geometry(state)
        defocus = self._optics(state, x, y, 0.0).defocus
        conditions = frozenset(self.conditions.active())
        warp = self._imperfections.warp(conditions, number, x, y, defocus)
        return FrameMap(x, y, geometry, warp, 0.0, self.distortion, 1, self.settings.camera.sensor)

    @property
    def truth_log(self) -> Path | None:
        """File that gets one line of JSON with the truth of each frame; none: not written."""
        return self._truth.path

    @truth_log.setter
    def truth_log(self, path: str | Path | None) -> None:
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._truth.path = None if path is None else Path(path)

    # -- where the camera looks -----------------------------------------------------------------

    def specimen(self, aperture: int) -> Texture:
        """Give the specimen in an aperture, counted from 1."""
        if _is_tape(self._specimen):
            return self._specimen.specimen(aperture)
        return self._specimen

    def _prefetch(self, x: float, y: float, aperture: int) -> None:
        """Have the texture made for where the stage is going."""
        geometry = self.column.true_geometry(self.column.state())
        width, height = self._renderer.field_of_view(geometry.matrix)
        # The stage stops up to a tenth of a frame from where it was sent.
        self.specimen(aperture).prefetch(
            x, y, width * PREFETCH_MARGIN, height * PREFETCH_MARGIN, level_for(geometry.pixel_size)
        )

    def _scene(self) -> Scene:
        """Note what an exposure depends on; what it sees is worked out on another thread.

        An exposure is to take its time and no more, as a real one does.
        """
        return Scene(
            self.column.state(),
            self.stage.commands,
            self._seen(),
            self.stage.aperture,
            self.stage.tape_offset,
            frozenset(self.conditions.active()),
        )

    def _struck(self, scene: Scene) -> Scene:
        """Let an exposure that is over use up what is on for so many of them."""
        for name in scene.conditions:
            self.conditions.strikes(name)
        return replace(scene, dropped=self.faults.strikes("beam_drop"))

    def _see(self, exposure: Exposure, scene: Scene) -> tuple[View, Note]:
        """Work out what the camera sees in an exposure; the truth is noted when it is read."""
        state, number, conditions = scene.column, exposure.number, scene.conditions
        steps = min(max(ceil(exposure.duration / PATH_STEP), 16), MOST_PATH_STEPS)
        share = (np.arange(steps) + 0.5) / steps
        path = self.stage.true_path(exposure.start + share * exposure.duration, scene.tape_offset)
        mean = {name: float(values.mean()) for name, values in path.items()}
        geometry = self.column.true_geometry(state)
        optics = self._optics(state, mean["x"], mean["y"], mean["z"])
        # A tilted beam sees the specimen aside, by the tilt times the defocus (mrad · µm = nm).
        shift = self.column.true_image_shift(state) + (
            np.array([state.beam_tilt_x, state.beam_tilt_y]) * optics.defocus / NM_PER_UM
        )
        place = np.array([mean["x"], mean["y"]]) + shift
        beam = None if scene.dropped else self._beam(state, exposure, shift)
        doses = self._irradiate(exposure, scene, place, beam)
        before = float(doses.at(*place))

        motion = np.array([path[axis] - mean[axis] for axis in ("x", "y")]) * NM_PER_UM
        motion += self._imperfections.motion(conditions, number, before, share * _dose(beam))
        place += motion.mean(axis=1) / NM_PER_UM
        motion -= motion.mean(axis=1, keepdims=True)
        if np.abs(motion).max() < NEGLIGIBLE_MOTION * geometry.pixel_size:
            motion = np.zeros((2, 1))
        x, y = map(float, place)
        view = View(
            number=number,
            specimen=scene.specimen,
            x=x,
            y=y,
            tilt=mean["tilt"],
            geometry=geometry,
            optics=optics,
            path=motion,
            beam=None if state.screen == "Down" else beam,
            exposure=exposure.duration,
            distortion=self._imperfections.distortion(conditions),
            warp=self._imperfections.warp(conditions, number, x, y, optics.defocus),
            conditions=conditions,
            binning=exposure.binning,
            bits=exposure.bits,
        )
        shade = self._imperfections.shade(conditions, number, partial(self._at_nodes, view, doses))
        view = replace(view, shade=shade)
        truth = self._truth_of(view, exposure, scene, mean, shift=shift, dose_before=before)
        return view, lambda timestamp: self._truth.add(replace(truth, timestamp=timestamp))

    def _irradiate(
        self, exposure: Exposure, scene: Scene, place: NDArray[np.float64], beam: Beam | None
    ) -> DoseMap:
        """Let the beam fall on the specimen; give what had fallen there before."""
        doses = self._history.before(exposure.number, scene.aperture)
        on_tape = scene.specimen is self._between_apertures
        self._history.note(exposure.number, scene.aperture, *place, None if on_tape else beam)
        return doses

    def _at_nodes(self, view: View, doses: DoseMap) -> NDArray[np.float64]:
        """Look up the doses where the nodes of the light lie on the specimen."""
        places = np.array([view.x, view.y]) + self._imperfections.nodes @ view.to_stage.T
        return doses.at(places[..., 0], places[..., 1])

    def _seen(self) -> Texture:
        """Give what is under the beam: between apertures, the tape itself."""
        if self.stage.aperture_moving():
            return self._between_apertures
        return self.specimen(self.stage.aperture)

    def _optics(self, state: ColumnState, x: float, y: float, z: float) -> Optics:
        s = self.settings.optics
        high = state.mag_mode == "M"
        stigmators = np.array([state.stigmator_x, state.stigmator_y])
        a, b = stigmators * s.stigmator_strength + s.astigmatism
        return Optics(
            wavelength=wavelength(state.high_tension),
            # Raising the specimen towards the source asks for a stronger lens: it is underfocused.
            defocus=state.defocus - s.focus_offset - z - self._height(x, y),
            astigmatism=hypot(a, b),
            astigmatism_angle=degrees(atan2(b, a)) / 2,
            cs=s.cs,
            focal_spread=focal_spread(s, state.high_tension),
            semi_angle=s.semi_angle if high else s.lm_semi_angle,
            amplitude_contrast=s.amplitude_contrast,
        )

    def _beam(self, state: ColumnState, exposure: Exposure, shift: np.ndarray) -> Beam | None:
        """Return what falls on the specimen; of it the camera sees none with the screen down."""
        current = self.column.current(state)
        if current == 0:
            return None
        s = self.settings.column
        place, diameter = self.column.true_beam(state)
        # The image is deflected below the specimen, and the light with it.
        middle = place - shift
        stigmators = (state.condenser_stigmator_x, state.condenser_stigmator_y)
        peak = beam_peak(
            current,
            exposure.duration,
            pi * diameter**2 / 4,
            s.beam_edge,
            s.beam_falloff,
        )
        return Beam(
            axes_of_beam(diameter, stigmators),
            (float(middle[0]), float(middle[1])),
            s.beam_edge,
            s.beam_falloff,
            peak,
        )

    def _truth_of(
        self,
        view: View,
        exposure: Exposure,
        scene: Scene,
        mean: dict[str, float],
        *,
        shift: np.ndarray,
        dose_before: float,
    ) -> FrameTruth:
        """Say what is behind a frame; its timestamp is not known yet."""
        binning = view.binning
        pixel = view.geometry.pixel_size * binning
        height, width = self.settings.camera.sensor
        still = replace(view.optics, defocus=0.0, astigmatism=0.0)
        return FrameTruth(
            frame=view.number,
            timestamp=nan,
            time=exposure.start + exposure.duration / 2,
            exposure=view.exposure,
            x=float(view.x),
            y=float(view.y),
            z=mean["z"],
            tilt=view.tilt,
            aperture=scene.aperture,
            magnification=scene.column.magnification,
            pixel_size=pixel,
            angle=view.geometry.angle,
            flip_columns=view.geometry.flip_columns,
            flip_rows=view.geometry.flip_rows,
            binning=binning,
            shape=(height // binning, width // binning),
            defocus=view.optics.defocus,
            astigmatism=view.optics.astigmatism,
            astigmatism_angle=view.optics.astigmatism_angle,
            blur_px=blur_size(view.optics, view.path) / pixel,
            motion_px=blur_size(still, view.path) / pixel,
            drift_x=mean["drift_x"],
            drift_y=mean["drift_y"],
            vibration_x=mean["vibration_x"],
            vibration_y=mean["vibration_y"],
            image_shift_x=float(shift[0]),
            image_shift_y=float(shift[1]),
            dose=_dose(view.beam),
            dose_before=dose_before,
            distortion=view.distortion,
            warp=view.warp,
            light=self._renderer.light(view),
            dark_corners=(
                self.settings.imperfections.dark_corners
                if "dark_corners" in view.conditions
                else None
            ),
            conditions=tuple(sorted(view.conditions)),
            faults=("beam_drop",) if scene.dropped else (),
        )


def _dose(beam: Beam | None) -> float:
    """Return the electrons that fall on an Å² in the middle of a beam, in an exposure."""
    return 0.0 if beam is None else beam.electrons / ANGSTROM2_PER_UM2


def _is_tape(specimen: object) -> TypeGuard[Tape]:
    return hasattr(specimen, "specimen")


class _Flat:
    """Something without texture, as large as is asked for."""

    transmission = 1.0

    def native_region(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> _FlatRegion:
        """Give the same value everywhere."""
        width, height = (ceil(side * NM_PER_UM / level) + 1 for side in (width_um, height_um))
        pixels = np.full((height, width), self.transmission, np.float32)
        scale = level / NM_PER_UM
        return _FlatRegion(pixels, x - (width - 1) / 2 * scale, y + (height - 1) / 2 * scale)

    def prefetch(
        self, x: float, y: float, width_um: float, height_um: float, pixel_size: float
    ) -> None:
        """Do nothing: there is nothing to make."""


class _FlatRegion:
    def __init__(self, pixels: np.ndarray, x: float, y: float) -> None:
        self.pixels, self.x, self.y = pixels, x, y


class EmptyFilm(_Flat):
    """The bare support film: almost all of the beam passes."""

    transmission = 0.95


class OpaqueTape(_Flat):
    """The tape between apertures: nothing passes."""

    transmission = 0.0
