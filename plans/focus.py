"""Focus series and autofocus.

The sharpness of each frame is measured in the IOC; here is only the series and what it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus, MsgGenerator, RequestAbort, RequestStop
from numpy.typing import NDArray

from devices import FocusFit
from plans import checks, names
from plans.exposures import acquisition, declare, expose, move, record, set_exposure, value_of
from plans.fit import FocusCurve, fit_focus
from plans.metadata import start_document
from plans.safety import finally_do, illuminated, insist

MIN_STEPS, MAX_STEPS = 7, 101
MAX_EXPANSIONS = 5
_PROBLEMS = {
    "few": "too few frames have a sharpness",
    "flat": "the sharpness does not change with defocus: is the beam on a specimen with features?",
    "noise": "the sharpness scatters more than it changes: expose longer, or take more steps",
    "edge": "the sharpest frame is at the end of the range: start nearer to focus, or widen it",
}


class FocusError(RuntimeError):
    """Autofocus found no focus that can be trusted."""


@dataclass(frozen=True)
class FocusSeries:
    """A focus series, as it was measured.

    Attributes
    ----------
    uid : str
        Of the run.
    defocus : tuple of float
        In µm.
    sharpness : tuple of float
    """

    uid: str
    defocus: tuple[float, ...]
    sharpness: tuple[float, ...]


@dataclass(frozen=True)
class Focus:
    """What autofocus found and set.

    Attributes
    ----------
    defocus : float
        In µm.
    quality : float
        0 to 1.
    uid : str
        Of the run.
    """

    defocus: float
    quality: float
    uid: str = ""


def focus_series(
    camera: Any,
    scope: Any,
    *,
    centre: float | None = None,
    focus_range: float = 20.0,
    steps: int = 11,
    exposure: float | None = None,
    settle: float = 0.05,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[FocusSeries]:
    """Take frames at a series of defocus values, and go back to the first defocus.

    Parameters
    ----------
    camera, scope : device
    centre : float, optional
        Middle of the series, in µm; the defocus that is set, if it is left out.
    focus_range : float
        From the first defocus to the last, in µm.
    steps : int
        Number of frames.
    exposure : float, optional
        In s; as the camera is set, if it is left out.
    settle : float
        Seconds to wait after each change.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    FocusSeries

    Raises
    ------
    TypeError, ValueError
        If an argument is bad; nothing has moved then.

    See Also
    --------
    autofocus : finds the best defocus and sets it.

    Examples
    --------
    >>> RE(focus_series(camera, scope, focus_range=40, steps=21))
    """
    checks.camera(camera)
    checks.scope(scope)
    steps = checks.whole("steps", steps, 2, MAX_STEPS)
    settle = checks.number("settle", settle, 0, checks.MAX_SETTLE, "s")
    exposure = checks.exposure(exposure, camera)
    before = yield from value_of(scope.defocus)
    series = _series("centre", before if centre is None else centre, focus_range, steps, scope)
    _md = start_document(
        names.FOCUS_SERIES,
        {
            "camera": camera.name,
            "scope": scope.name,
            "centre": centre,
            "focus_range": focus_range,
            "steps": steps,
            "exposure": exposure,
            "settle": settle,
        },
        sample=sample,
        operator=operator,
        md=md,
        hints={"dimensions": [([scope.defocus.name], names.PRIMARY)]},
        num_points=steps,
    )

    def inner_focus_series(uid: str) -> MsgGenerator[list[float]]:
        yield from set_exposure(camera, exposure)
        yield from declare(names.PRIMARY, camera, scope)
        take = _take_series(
            camera,
            scope,
            series,
            place={},
            settle=settle,
            readables=[scope],
            stream=names.PRIMARY,
        )
        back = partial(move, {scope.defocus: before}, 0)
        return (yield from finally_do(illuminated(take, scope), back))

    uid, sharpness = yield from acquisition(inner_focus_series, _md, camera, scope)
    return FocusSeries(uid, tuple(map(float, series)), tuple(sharpness))


def autofocus(
    camera: Any,
    scope: Any,
    *,
    centre: float | None = None,
    focus_range: float = 20.0,
    steps: int = 9,
    min_quality: float = 0.5,
    expansions: int = 2,
    exposure: float | None = None,
    settle: float = 0.05,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Focus]:
    """Find the sharpest defocus and set it.

    If the sharpest frame is the first or the last, the series is continued on that side; if noise
    hides the peak, it is taken once again.

    Parameters
    ----------
    camera, scope : device
    centre : float, optional
        Where to start, in µm of defocus; where it is set, if it is left out.
    focus_range : float
        From the first defocus of a series to the last, in µm.
    steps : int
        Frames of a series.
    min_quality : float
        What the fit must reach, 0 to 1.
    expansions : int
        How often the series may be continued.
    exposure : float, optional
        In s; as the camera is set, if it is left out.
    settle : float
        Seconds to wait after each change.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    Focus

    Raises
    ------
    TypeError, ValueError
        If an argument is bad; nothing has moved then.
    FocusError
        If there is no focus to be trusted; the defocus is then what it was.

    Examples
    --------
    >>> RE(autofocus(camera, scope, focus_range=30))
    """
    checks.camera(camera)
    checks.scope(scope)
    settings = AutofocusSettings(focus_range, steps, min_quality, expansions, settle)
    exposure = checks.exposure(exposure, camera)
    if centre is None:
        centre = yield from value_of(scope.defocus)
    settings.check(centre, scope)
    _md = start_document(
        names.AUTOFOCUS,
        {
            "camera": camera.name,
            "scope": scope.name,
            "centre": centre,
            "exposure": exposure,
            **settings.to_dict(),
        },
        sample=sample,
        operator=operator,
        md=md,
        hints={"dimensions": [([scope.defocus.name], names.PRIMARY)]},
    )
    fit = FocusFit(name=names.AUTOFOCUS_DEVICE)

    def inner_autofocus(uid: str) -> MsgGenerator[Focus]:
        yield from set_exposure(camera, exposure)
        yield from declare(names.PRIMARY, camera, scope)
        yield from declare(names.AUTOFOCUS_FIT, fit)
        find = find_focus(
            camera, scope, fit, settings, centre=centre, stream=names.PRIMARY, readables=[scope]
        )
        return (yield from illuminated(find, scope))

    uid, found = yield from acquisition(inner_autofocus, _md, camera, scope)
    return Focus(found.defocus, found.quality, uid)


@dataclass(frozen=True)
class AutofocusSettings:
    """How autofocus searches; the arguments of `autofocus` of the same names."""

    focus_range: float = 20.0
    steps: int = 9
    min_quality: float = 0.5
    expansions: int = 2
    settle: float = 0.05

    def check(self, centre: float, scope: Any) -> None:
        """Refuse settings that cannot work.

        Raises
        ------
        TypeError, ValueError
            If one is not allowed; the message says what is.
        """
        checks.whole("steps", self.steps, MIN_STEPS, MAX_STEPS)
        checks.number("min_quality", self.min_quality, 0, 1)
        checks.whole("expansions", self.expansions, 0, MAX_EXPANSIONS)
        checks.number("settle", self.settle, 0, checks.MAX_SETTLE, "s")
        _series("centre", centre, self.focus_range, self.steps, scope)

    def to_dict(self) -> dict[str, float]:
        """Give them as plain data."""
        return dict(vars(self))


def find_focus(
    camera: Any,
    scope: Any,
    fit: FocusFit,
    settings: AutofocusSettings,
    *,
    centre: float,
    stream: str,
    readables: Iterable[Any],
    place: Mapping[Any, Any] | None = None,
    tile: int = -1,
) -> MsgGenerator[Focus]:
    """Do autofocus within a run that is open, with camera staged and beam on.

    Its frames go to `stream`, what it found to the stream ``autofocus``, good or not.

    Parameters
    ----------
    camera, scope : device
    fit : FocusFit
        Soft device that is recorded.
    settings : AutofocusSettings
    centre : float
        Where to start, and where to go back if it fails, in µm of defocus.
    stream : str
        Name of the stream of its frames, which was declared.
    readables : iterable of device
        What is read with each frame.
    place : mapping of device to value, optional
        Where to do it.
    tile : int
        Index of the tile that it is done for.

    Returns
    -------
    Focus

    Raises
    ------
    FocusError
        If there is no focus to be trusted.
    """
    try:
        curve, tried = yield from _search(
            camera, scope, settings, centre=centre, stream=stream, readables=readables, place=place
        )
    except (RequestAbort, RequestStop, FailedStatus):
        yield from insist(partial(move, {scope.defocus: centre}, 0))
        raise
    found = Focus(curve.best if curve.good else centre, curve.quality if curve.good else 0.0)
    problem = _PROBLEMS.get(curve.problem, "")
    yield from move({scope.defocus: found.defocus}, settings.settle)
    yield from _record_fit(fit, found, problem, tile)
    if problem:
        raise FocusError(
            f"no focus found from {min(tried):g} to {max(tried):g} µm of defocus: {problem} "
            f"(quality {curve.quality:.2f}, needed {settings.min_quality:g}); "
            f"defocus is back at {centre:g} µm"
        )
    return found


def _search(
    camera: Any,
    scope: Any,
    settings: AutofocusSettings,
    *,
    centre: float,
    stream: str,
    readables: Iterable[Any],
    place: Mapping[Any, Any] | None,
) -> MsgGenerator[tuple[FocusCurve, list[float]]]:
    """Take series until one fit to all of them finds a peak; give the fit, and defocuses.

    A series with its peak at the end is continued there, and one that noise hides is taken once
    again: twice the frames tell a weak peak from none.
    """
    defocus: list[float] = []
    sharpness: list[float] = []
    middle = centre
    left = {"edge": settings.expansions, "noise": 1}
    while True:
        series = _within_limits(_points(middle, settings.focus_range, settings.steps), scope)
        defocus += series.tolist()
        sharpness += yield from _take_series(
            camera,
            scope,
            series,
            place=place or {},
            settle=settings.settle,
            readables=readables,
            stream=stream,
        )
        curve = fit_focus(defocus, sharpness, min_quality=settings.min_quality)
        if not left.get(curve.problem):
            break
        left[curve.problem] -= 1
        if curve.problem == "edge":
            # The next series begins where this one ended.
            middle = curve.best + np.sign(curve.best - middle) * settings.focus_range / 2
    return curve, defocus


def _take_series(
    camera: Any,
    scope: Any,
    series: Iterable[float],
    *,
    place: Mapping[Any, Any],
    settle: float,
    readables: Iterable[Any],
    stream: str,
) -> MsgGenerator[list[float]]:
    """Take a frame at each defocus; give the sharpness of each."""
    key = camera.stats1.sharpness.name
    sharpness = []
    for defocus in series:
        yield from bps.checkpoint()
        yield from move({**place, scope.defocus: float(defocus)}, settle)
        readings = yield from expose(camera, readables, stream)
        sharpness.append(float(readings[key]["value"]) if key in readings else float("nan"))
    return sharpness


def _record_fit(fit: FocusFit, found: Focus, problem: str, tile: int) -> MsgGenerator[None]:
    values = {
        "defocus": found.defocus,
        "quality": found.quality,
        "succeeded": int(not problem),
        "reason": problem,
        "tile": tile,
    }
    yield from bps.checkpoint()
    yield from bps.abs_set(fit, values, wait=True)
    yield from record([fit], names.AUTOFOCUS_FIT)


def _series(
    name: str, centre: Any, focus_range: Any, steps: int, scope: Any
) -> NDArray[np.float64]:
    """Give the defocus values of a series, after checking that the microscope has them."""
    low, high = limits(scope)
    centre = checks.number(name, centre, low, high, "µm")
    focus_range = checks.number("focus_range", focus_range, 0, high - low, "µm")
    if focus_range == 0:
        raise ValueError(f"focus_range is 0 µm; it must be above 0 and at most {high - low:g} µm")
    series = _points(centre, focus_range, steps)
    if series[0] < low or series[-1] > high:
        raise ValueError(
            f"focus_range is {focus_range:g} µm about {centre:g} µm, which is from {series[0]:g} "
            f"to {series[-1]:g} µm; {scope.defocus.name} goes from {low:g} to {high:g} µm"
        )
    return series


def _points(centre: float, focus_range: float, steps: int) -> NDArray[np.float64]:
    return centre + np.linspace(-focus_range / 2, focus_range / 2, steps)


def _within_limits(series: NDArray[np.float64], scope: Any) -> NDArray[np.float64]:
    """Shift a series so that it stays inside the limits of the defocus."""
    low, high = limits(scope)
    return series + max(low - series[0], 0.0) - max(series[-1] - high, 0.0)


def limits(scope: Any) -> tuple[float, float]:
    """Give the limits of the defocus, in µm; equal ones mean none, as everywhere in EPICS."""
    low, high = scope.defocus.limits
    return (low, high) if low is not None and low < high else (-float("inf"), float("inf"))
