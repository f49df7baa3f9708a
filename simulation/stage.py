"""The stage: axes that move, shake, drift and are wrong, and the changer of apertures.

The encoder sits on the drive, so it knows nothing of play, screw errors, vibration and drift.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulation.clock import SimulationClock
from simulation.errors import (
    StageError,
    StageLimitError,
    StageStalledError,
    StageTimeoutError,
)
from simulation.faults import FaultSet
from simulation.motion import Trajectory, at_rest, brake, go
from simulation.settings import AxisSettings, StageSettings

AXES = ("x", "y", "z", "tilt")
UNITS = {"x": "um", "y": "um", "z": "um", "tilt": "deg"}
MOVES_KEPT = 64
STALL_FRACTION = 0.45
CROSS_COUPLING = 0.3
WAVES = 16
WANDER_PERIOD = 400.0


@dataclass(frozen=True)
class Move:
    """One move of an axis, always in one direction, with the errors that it has.

    Attributes
    ----------
    trajectory : Trajectory
        Of the drive.
    carried : float
        Position of the specimen at the start, which lags by the play.
    jitter : (float, float)
        Error that no other move shares, at the start and at the end.
    """

    trajectory: Trajectory
    carried: float
    jitter: tuple[float, float]

    def specimen(self, time: ArrayLike, backlash: float) -> NDArray[np.float64]:
        """Give where the drive carries the specimen to: it follows once the play is used up."""
        drive = self.trajectory.position(time)
        if self.trajectory.target >= self.trajectory.positions[0]:
            carried = np.maximum(self.carried, drive - backlash / 2)
        else:
            carried = np.minimum(self.carried, drive + backlash / 2)
        first, last = self.jitter
        if first == last:
            return carried + last
        length = self.trajectory.target - self.trajectory.positions[0]
        share = (drive - self.trajectory.positions[0]) / length if length else 1.0
        return carried + first + (last - first) * share


class VirtualAxis:
    """One axis: its moves so far and what they add up to. Not thread-safe; the stage is."""

    def __init__(self, settings: AxisSettings, rng: np.random.Generator, now: float) -> None:
        self.settings = settings
        self.speed = settings.speed
        self.stalled = False
        self._rng = rng
        rest = at_rest(now, min(max(0.0, settings.low), settings.high))
        self.moves = deque([Move(rest, rest.target, (0.0, 0.0))], maxlen=MOVES_KEPT)

    def drive(self, time: float) -> float:
        """Give the position of the drive."""
        return float(self._at(time).trajectory.position(time))

    def _at(self, time: float) -> Move:
        """Find the move in force at a time: later ones may be waiting for their start."""
        for move in reversed(self.moves):
            if move.trajectory.start <= time:
                return move
        return self.moves[0]

    def moving(self, time: float) -> bool:
        """Tell whether the drive is in motion."""
        return time < self.moves[-1].trajectory.end

    def move(self, now: float, target: float, stall: bool) -> float:
        """Start for a target; one that is in motion is braked first. Gives the time of arrival."""
        self.stalled = False
        start = self.stop(now)
        path = go(start, self.moves[-1].trajectory.target, target, self.speed, self._acceleration)
        self._append(path, float(self._rng.normal(0, self.settings.jitter)))
        if stall and path.end > path.start:
            self.stop(path.start + STALL_FRACTION * (path.end - path.start))
            self.stalled = True
        return self.moves[-1].trajectory.end

    def stop(self, time: float) -> float:
        """Brake, if it moves; gives the time when it is at rest."""
        while len(self.moves) > 1 and self.moves[-1].trajectory.start > time:
            self.moves.pop()
        path = self.moves[-1].trajectory
        if not time < path.end:
            return time
        braking = brake(time, float(path.position(time)), path.speed(time), self._acceleration)
        error = self._jitter(time)
        self._append(braking, error, error)
        return braking.end

    def specimen(self, times: ArrayLike) -> NDArray[np.float64]:
        """Give where the axis carries the specimen to at some times, before the smooth errors."""
        times = np.asarray(times, dtype=float)
        first, *rest = self._since(float(times.min()))
        place = first.specimen(times, self.settings.backlash)
        for move in rest:
            later = times >= move.trajectory.start
            if later.any():
                place = np.where(later, move.specimen(times, self.settings.backlash), place)
        return place

    def _since(self, time: float) -> list[Move]:
        """Give the move in force at a time and all that follow it."""
        recent: list[Move] = []
        for move in reversed(self.moves):
            recent.append(move)
            if move.trajectory.start <= time:
                break
        return recent[::-1]

    def vibration(
        self, times: ArrayLike, amplitude: float, decay: float, frequency: float
    ) -> NDArray[np.float64]:
        """Give the ringing after the last moves, as it is damped out."""
        times = np.asarray(times, dtype=float)
        total = np.zeros(times.shape)
        recent = list(self.moves)[-4:]
        for move, following in zip(recent, [*recent[1:], None], strict=True):
            path = move.trajectory
            length = abs(path.target - path.positions[0])
            cut_short = following is not None and following.trajectory.start < path.end
            since = times - path.end
            if length == 0 or cut_short or np.all(since > 20 * decay):
                continue
            since = np.where(since > 0, since, 0.0)
            size = amplitude * min(1.0, length)
            total += size * np.exp(-since / decay) * np.sin(2 * np.pi * frequency * since)
        return total

    @property
    def _acceleration(self) -> float:
        return self.settings.acceleration

    def _jitter(self, time: float) -> float:
        move = self.moves[-1]
        path = move.trajectory
        length = path.target - path.positions[0]
        share = (float(path.position(time)) - path.positions[0]) / length if length else 1.0
        return move.jitter[0] + (move.jitter[1] - move.jitter[0]) * share

    def _append(self, path: Trajectory, jitter: float, jitter_start: float | None = None) -> None:
        last = self.moves[-1]
        start = last.jitter[1] if jitter_start is None else jitter_start
        carried = float(last.specimen(path.start, self.settings.backlash))
        carried -= self._jitter(path.start)
        if path.end == path.start:
            jitter = start
        self.moves.append(Move(path, carried, (start, jitter)))


class PositionError:
    """The error of position that repeats: smooth waves over the field and the screws' period.

    Parameters
    ----------
    settings : StageSettings
    rng : numpy.random.Generator
    """

    def __init__(self, settings: StageSettings, rng: np.random.Generator) -> None:
        low, high = np.log(settings.error_scales)
        wavelength = np.exp(rng.uniform(low, high, (2, WAVES)))
        angle = rng.uniform(0, 2 * np.pi, (2, WAVES))
        # Longer waves are larger, so that neighbours differ by less than far places.
        size = wavelength / np.sqrt((wavelength**2).sum(axis=1, keepdims=True))
        self._size = settings.repeatable_error * np.sqrt(2) * size
        self._wave = 2 * np.pi / wavelength * np.array([np.cos(angle), np.sin(angle)])
        self._phase = rng.uniform(0, 2 * np.pi, (2, WAVES))
        self._screw = settings.screw_error
        self._turn = 2 * np.pi / settings.screw_pitch
        self._screw_phase = rng.uniform(0, 2 * np.pi, 2)

    def at(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the error at some places.

        Parameters
        ----------
        x, y : array_like, shape (n,)
            In µm.

        Returns
        -------
        ndarray of float64, shape (2, n)
            Error along x and y, in µm.
        """
        place = np.array([np.atleast_1d(x), np.atleast_1d(y)], dtype=float)
        phase = np.einsum("dak,dn->akn", self._wave, place) + self._phase[:, :, None]
        smooth = np.einsum("ak,akn->an", self._size, np.sin(phase))
        return smooth + self._screw * np.sin(self._turn * place + self._screw_phase[:, None])


class VirtualStage:
    """A four-axis stage with an aperture changer.

    All methods may be called from any thread. Moves only start a motion; `wait` waits for its end.

    Parameters
    ----------
    settings : StageSettings
    clock : SimulationClock
    faults : FaultSet
    seed : numpy.random.SeedSequence
    n_apertures : int
        Apertures of the tape, or 1.
    on_move : callable, optional
        Called with the targets (x, y) and the aperture when a motion starts, so that
        texture can be made ahead.

    Attributes
    ----------
    commands : int
        How many it has had: its path is settled until the next.
    """

    def __init__(
        self,
        settings: StageSettings,
        clock: SimulationClock,
        faults: FaultSet,
        *,
        seed: np.random.SeedSequence,
        n_apertures: int = 1,
        on_move: Callable[[float, float, int], None] | None = None,
    ) -> None:
        self.settings = settings
        self.n_apertures = n_apertures
        self._clock = clock
        self._faults = faults
        self._on_move = on_move
        self._lock = threading.RLock()
        axes_seed, error_seed, drift_seed, encoder_seed, tape_seed = seed.spawn(5)
        now = clock.now()
        self._axes = {
            name: VirtualAxis(getattr(settings, name), np.random.default_rng(child), now)
            for name, child in zip(AXES, axes_seed.spawn(len(AXES)), strict=True)
        }
        self._error = PositionError(settings, np.random.default_rng(error_seed))
        self._wander = np.random.default_rng(drift_seed).uniform(0, 2 * np.pi, 2)
        self._encoder = np.random.default_rng(encoder_seed)
        self._tape = np.random.default_rng(tape_seed)
        self._tape_offset = np.zeros(2)
        self._aperture = (1, 1, now, now)  # from, to, start, end
        self.commands = 0

    # -- what a driver asks ---------------------------------------------------------------------

    @property
    def axes(self) -> Mapping[str, AxisSettings]:
        """Settings of each axis by name: limits, speeds."""
        return {name: axis.settings for name, axis in self._axes.items()}

    def position(self) -> dict[str, float]:
        """Read the encoders: x, y, z in µm and tilt in degrees, with the encoders' noise."""
        with self._lock:
            now = self._clock.now()
            return {
                name: axis.drive(now) + float(self._encoder.normal(0, axis.settings.encoder_noise))
                for name, axis in self._axes.items()
            }

    def moving_axes(self) -> frozenset[str]:
        """Give the names of the axes whose drive is in motion."""
        with self._lock:
            now = self._clock.now()
            return frozenset(name for name, axis in self._axes.items() if axis.moving(now))

    def moving(self) -> bool:
        """Tell whether any axis or the aperture changer is in motion."""
        return bool(self.moving_axes()) or self.aperture_moving()

    def stalled(self) -> dict[str, str]:
        """Give the axes whose last move stopped short of its target, and why."""
        with self._lock:
            now = self._clock.now()
            return {
                name: f"{name} stalled at {axis.drive(now):.3f} {UNITS[name]}; move it again"
                for name, axis in self._axes.items()
                if axis.stalled and not axis.moving(now)
            }

    # -- motion ---------------------------------------------------------------------------------

    def move(self, **targets: float) -> None:
        """Set axes in motion and return at once; a new target replaces the old one.

        Parameters
        ----------
        **targets : float
            Target by axis: x, y, z in µm, tilt in degrees.

        Raises
        ------
        StageError
            If there is no such axis.
        StageLimitError
            If a target lies beyond a soft limit or is not a number; nothing moves.
        """
        self._check(targets)
        with self._lock:
            self.commands += 1
            stall = self._faults.strikes("stage_stall") if targets else False
            now = self._clock.now()
            for name, target in targets.items():
                self._axes[name].move(now, float(target), stall)
            goal = tuple(self._axes[name].moves[-1].trajectory.target for name in ("x", "y"))
        if self._on_move is not None and {"x", "y"} & set(targets):
            self._on_move(*goal, self.aperture)

    def set_speed(self, axis: str, speed: float) -> None:
        """Set the speed of an axis for its next moves, in units per second.

        Raises
        ------
        StageError
            If there is no such axis.
        StageLimitError
            If the speed is not between zero and the axis's largest.
        """
        self._known(axis)
        limit = self._axes[axis].settings.max_speed
        if not 0 < speed <= limit:
            raise StageLimitError(
                f"speed of {axis} is {speed} {UNITS[axis]}/s; it must lie between 0 and {limit:g}"
            )
        with self._lock:
            self._axes[axis].speed = float(speed)

    def stop(self, axes: Collection[str] | None = None) -> None:
        """Brake some axes, or all of them and the aperture changer."""
        for name in axes or ():
            self._known(name)
        with self._lock:
            self.commands += 1
            now = self._clock.now()
            for name in AXES if axes is None else axes:
                self._axes[name].stop(now)
            if axes is None and self.aperture_moving():
                passed = self.aperture
                self._aperture = (passed, passed, now, now)

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until everything is at rest.

        Parameters
        ----------
        timeout : float
            In simulated s.

        Raises
        ------
        StageTimeoutError
            If it takes longer.
        StageStalledError
            If an axis stopped short of its target.
        """
        end = self._clock.now() + timeout
        while (rest := self._rest_time()) > self._clock.now():
            if self._clock.now() >= end:
                raise StageTimeoutError(
                    f"the stage still moves after {timeout:g} s; stop it or wait longer"
                )
            # In short steps, because stop() makes it earlier.
            self._clock.wait_until(min(rest, end, self._clock.now() + 0.05))
        if stalled := self.stalled():
            raise StageStalledError("; ".join(stalled.values()))

    def _rest_time(self) -> float:
        with self._lock:
            ends = [axis.moves[-1].trajectory.end for axis in self._axes.values()]
            return max(*ends, self._aperture[3])

    # -- apertures ------------------------------------------------------------------------------

    @property
    def aperture(self) -> int:
        """The aperture under the beam, counted from 1; in a change the one passed last."""
        first, last, start, end = self._aperture
        now = self._clock.now()
        if now >= end:
            return last
        share = (now - start) / (end - start)
        return first + int((last - first) * share)

    def aperture_moving(self) -> bool:
        """Tell whether the aperture changer winds."""
        return self._clock.now() < self._aperture[3]

    def go_to_aperture(self, number: int) -> None:
        """Start winding to an aperture and return at once.

        Parameters
        ----------
        number : int
            Counted from 1.

        Raises
        ------
        StageLimitError
            If there is no such aperture.
        """
        if number != int(number) or not 1 <= number <= self.n_apertures:
            raise StageLimitError(
                f"aperture is {number}; it must be a whole number from 1 to {self.n_apertures}"
            )
        with self._lock:
            self.commands += 1
            here = self.aperture
            now = self._clock.now()
            steps = abs(int(number) - here)
            self._aperture = (here, int(number), now, now + steps * self.settings.aperture_time)
            if steps:
                self._tape_offset = self._tape.normal(0, self.settings.aperture_jitter, 2)
            x, y = (self._axes[name].moves[-1].trajectory.target for name in ("x", "y"))
        if self._on_move is not None:
            self._on_move(x, y, int(number))

    # -- truth ----------------------------------------------------------------------------------

    def true_position(self, time: float | None = None) -> dict[str, float]:
        """Give where the specimen really is: for truth and tests only.

        Parameters
        ----------
        time : float, optional
            Simulated time in s; now if none.
        """
        path = self.true_path([self._clock.now() if time is None else time])
        return {name: float(values[0]) for name, values in path.items()}

    @property
    def tape_offset(self) -> NDArray[np.float64]:
        """How far from its nominal place the tape stopped, along x and y in µm."""
        return self._tape_offset

    def true_path(
        self, times: ArrayLike, tape_offset: NDArray[np.float64] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Give the real path of the specimen: play, errors, vibration and drift included.

        Parameters
        ----------
        times : array_like, shape (n,)
            Simulated times in s.
        tape_offset : ndarray of float64, shape (2,), optional
            That of these times, if the tape has moved since.

        Returns
        -------
        dict of str to ndarray of float64, shape (n,)
            x, y, z in µm, tilt in degrees; `vibration_x`, `vibration_y`, `drift_x`, `drift_y` in
            µm are what of it is vibration and drift.
        """
        times = np.asarray(times, dtype=float)
        s = self.settings
        with self._lock:
            path = {name: axis.specimen(times) for name, axis in self._axes.items()}
            along = [
                self._axes[name].vibration(
                    times, s.vibration, s.vibration_decay, s.vibration_frequency * factor
                )
                for name, factor in (("x", 1.0), ("y", 1.21))
            ]
            offset = self._tape_offset if tape_offset is None else tape_offset
        error = self._error.at(path["x"], path["y"])
        drift = self.drift(times)
        for i, name in enumerate(("x", "y")):
            shaking = along[i] + CROSS_COUPLING * along[1 - i]
            path[name] = path[name] + error[i] + drift[i] + shaking + offset[i]
            path[f"vibration_{name}"] = shaking
            path[f"drift_{name}"] = drift[i]
        return path

    def drift(self, times: ArrayLike) -> NDArray[np.float64]:
        """Give the thermal drift along x and y at some times, in µm, shape (2, n)."""
        times = np.asarray(times, dtype=float)
        settled = 1 - np.exp(-times / self.settings.drift_time)
        turn = 2 * np.pi * times / WANDER_PERIOD
        wander = np.sin(turn + self._wander[:, None]) - np.sin(self._wander)[:, None]
        return np.outer(self.settings.drift, settled) + self.settings.drift_wander * wander

    # -- checks ---------------------------------------------------------------------------------

    def _known(self, name: str) -> None:
        if name not in self._axes:
            raise StageError(f"there is no axis {name!r}; there are {', '.join(AXES)}")

    def _check(self, targets: Mapping[str, Any]) -> None:
        for name, target in targets.items():
            self._known(name)
            limits = self._axes[name].settings
            if not limits.low <= target <= limits.high:
                raise StageLimitError(
                    f"{name} is {target} {UNITS[name]}; it must lie between "
                    f"{limits.low:g} and {limits.high:g} {UNITS[name]}"
                )
