"""Goes on with a montage that was cut off: the same plan, for the tiles that no run has.

What was asked for stands in the start document, and what was taken in the events; both in Tiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bluesky.utils import MsgGenerator

from plans import MontageResult, fly_montage, montage
from processing.geometry import ImageShift
from services.errors import PlainError

PLANS: Mapping[str, Callable[..., MsgGenerator[MontageResult]]] = {
    "montage": montage,
    "fly_montage": fly_montage,
}
DEVICES = ("sequencer", "camera", "stage", "scope")


class ResumeError(PlainError):
    """A run that cannot be gone on with; the message says why."""


def resume_montage(
    run: Any, devices: Mapping[str, Any], gate: Any = None, **changes: Any
) -> MsgGenerator[MontageResult]:
    """Take the tiles of a montage that its run does not have: a plan.

    Parameters
    ----------
    run : tiled client of a run
        As in ``catalog[uid]``. Its start document names what it went on with itself.
    devices : mapping of str to device
        By name.
    gate : QualityGate, optional
        Used if the run had one.
    **changes
        Arguments of the plan that are to be others than they were.

    Returns
    -------
    MontageResult
        Of a new run, whose start document names the one that it `continues`.

    Raises
    ------
    ResumeError
        If the run is no montage, or has all its tiles, or a device is not there.

    Examples
    --------
    >>> RE(resume_montage(catalog[uid], devices, gate))
    """
    start = run.metadata["start"]
    plan = PLANS.get(start.get("plan_name"))
    if plan is None:
        raise ResumeError(
            f"run {start['uid']} is {start.get('plan_name')!r}; only {', '.join(PLANS)} can be "
            "gone on with"
        )
    arguments = dict(start["plan_args"])
    named = [arguments.pop(role) for role in DEVICES if role in arguments]
    if absent := [name for name in named if name not in devices]:
        raise ResumeError(f"the run used {', '.join(absent)}; there are {', '.join(devices)}")
    taken = {*arguments.pop("taken"), *tiles_of(run)}
    if len(taken) == start["montage"]["n_tiles"]:
        raise ResumeError(f"run {start['uid']} has all its {len(taken)} tiles")
    arguments["image_shift"] = ImageShift(**arguments["image_shift"])
    arguments["gate"] = gate if arguments["gate"] is not None else None
    arguments |= {key: start[key] for key in ("sample", "operator") if key in start}
    arguments |= {"taken": sorted(taken), "md": {"continues": start["uid"]}}
    return (yield from plan(*(devices[name] for name in named), **(arguments | changes)))


def tiles_of(run: Any) -> list[int]:
    """Give the tiles that a run has, by index, in the order of their events."""
    if "primary" not in run:
        return []  # it was cut off before the first
    table = run["primary"].base["internal"].read(["tile_index"])
    return [int(index) for index in table["tile_index"]]
