"""Checks of plans' arguments, at the door.

Each names the argument, what it was and what is allowed, and sends no message: nothing has moved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

from processing.geometry import Grid, ImageShift, Region

MAX_SETTLE = 60.0
"""Longest time, in s, to wait after a move."""

MAX_RETAKES = 10
"""How often one tile may be taken again."""

MAX_PLACE = 1e6
"""Farthest place on any stage, in µm."""

MAX_BEHIND = 100_000
"""How many tiles may wait to be judged."""

REFERENCES = ("bright", "dark", "lens")
"""Kinds of runs that a montage may name, to be corrected with."""


def number(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """Give a number that must be finite and between two limits, both allowed.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    given = float(value)
    if not (isfinite(given) and low <= given <= high):
        raise ValueError(
            f"{name} is {given:g}{_unit(unit)}; it must lie between {low:g} and {high:g}"
            f"{_unit(unit)}"
        )
    return given


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Give a whole number that must lie between two limits, both allowed.

    Raises
    ------
    TypeError
        If it is not a whole number.
    ValueError
        If it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r}; it must be a whole number")
    given = int(value)
    if not low <= given <= high:
        raise ValueError(f"{name} is {given}; it must lie between {low} and {high}")
    return given


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Give a word that must be one of some.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    return str(value)


def place(name: str, value: Any) -> tuple[float, float]:
    """Give a place on the stage, (x, y) in µm.

    Raises
    ------
    TypeError
        If it is not a pair of numbers.
    ValueError
        If one is not finite.
    """
    try:
        x, y = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; it must be a pair (x, y) in µm") from None
    # The limits of the stage itself are checked where all tiles are known.
    return (
        number(f"x of {name}", x, -MAX_PLACE, MAX_PLACE, "µm"),
        number(f"y of {name}", y, -MAX_PLACE, MAX_PLACE, "µm"),
    )


def text(name: str, value: Any) -> str | None:
    """Give a text, or nothing.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; it must be a text")
    return value


def sample(value: Any) -> str | dict[str, Any] | None:
    """Give a sample's name or its description, or nothing.

    Raises
    ------
    TypeError
        If it is something else; the RunEngine takes no other.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"sample is {value!r}; it must be a text or a mapping")
    return value


def device(name: str, value: Any, *parts: str) -> None:
    """Check that a device has the parts that a plan uses.

    Raises
    ------
    TypeError
        If one is missing; most likely arguments were swapped.
    """
    missing = [part for part in parts if not hasattr(value, part)]
    if missing:
        raise TypeError(
            f"{name} is {getattr(value, 'name', value)!r}, which has no {', '.join(missing)}; "
            f"it must be a device with {', '.join(parts)}"
        )


def camera(value: Any) -> None:
    """Check that a device is a camera."""
    device("camera", value, "cam", "hdf1", "stats1", "trigger")


def scope(value: Any) -> None:
    """Check that a device is a microscope."""
    device("scope", value, "defocus", "blank", "screen", "pixel_size", "rotation")


def stage(value: Any) -> None:
    """Check that a device is a stage."""
    device("stage", value, "x", "y")


def region(value: Any) -> Region:
    """Give a region of interest from itself or from plain data.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If the data make no region.
    """
    if isinstance(value, Region):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(
            f"roi is {value!r}; it must be a Region, or a mapping with vertices, or with centre, "
            "width, height and, if it is turned, angle (µm and degrees)"
        )
    try:
        return Region.from_mapping(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"roi is {dict(value)!r}: {error}") from error


def image_shift(value: Any) -> ImageShift:
    """Give the calibration of the image shift, the default one if there is none.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if value is None:
        return ImageShift()
    if not isinstance(value, ImageShift):
        raise TypeError(f"image_shift is {value!r}; it must be an ImageShift")
    return value


def focus_policy(value: Any) -> str | int:
    """Give a focus policy: a word, or the number of tiles from one autofocus to the next.

    Raises
    ------
    ValueError
        If it is something else.
    """
    words = ("none", "once", "row", "plane", "surface")
    if not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1:
        return int(value)
    if value not in words:
        raise ValueError(
            f"focus is {value!r}; it must be one of {', '.join(words)}, or a whole number n ≥ 1 "
            "to focus every n tiles"
        )
    return str(value)


def references(value: Any) -> dict[str, str | None]:
    """Give the uids of reference runs by kind.

    Raises
    ------
    TypeError, ValueError
        If it is not a mapping of `REFERENCES` to uids.
    """
    if value is None:
        return dict.fromkeys(REFERENCES)
    if not isinstance(value, Mapping):
        raise TypeError(
            f"references is {value!r}; it must map {', '.join(REFERENCES)} to uids of runs"
        )
    if unknown := set(value) - set(REFERENCES):
        raise ValueError(
            f"references has {', '.join(sorted(map(str, unknown)))}; "
            f"the kinds are {', '.join(REFERENCES)}"
        )
    return {kind: text(f"references[{kind!r}]", value.get(kind)) for kind in REFERENCES}


def taken(value: Any, n_tiles: int) -> frozenset[int]:
    """Give the indices of tiles that are not to be taken.

    Raises
    ------
    TypeError
        If it is no collection of whole numbers.
    ValueError
        If there is no such tile, or none is left.
    """
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(f"taken is {value!r}; it must be a collection of the tiles' indices")
    indices = frozenset(whole("taken", index, 0, n_tiles - 1) for index in value)
    if len(indices) == n_tiles:
        raise ValueError(f"taken names all {n_tiles} tiles: there is nothing left to take")
    return indices


def exposure(value: Any, camera: Any) -> float | None:
    """Give an exposure time that the camera can make, or nothing to leave it as it is.

    Raises
    ------
    TypeError, ValueError
        If it is not a number, or outside the limits of the camera's ``AcquireTime``.
    """
    if value is None:
        return None
    low, high = camera.cam.acquire_time.limits
    if low is None or low >= high:
        low, high = 0.0, float("inf")
    return number("exposure", value, low, high, "s")


def reach(name: str, values: Sequence[float], axis: Any) -> None:
    """Check that an axis or a setting can go to all of some places.

    Raises
    ------
    ValueError
        If one lies outside its limits.
    """
    low, high = axis.limits
    if low is None or low >= high:
        return
    if min(values) < low or max(values) > high:
        units = getattr(axis, "egu", None) or axis.metadata.get("units", "")
        raise ValueError(
            f"{name} needs {axis.name} from {min(values):.6g} to {max(values):.6g} {units}; "
            f"it goes from {low:g} to {high:g} {units}"
        )


def grid_in_reach(grid: Grid, stage: Any, name: str = "roi") -> None:
    """Check that the stage can go where every tile needs it.

    Raises
    ------
    ValueError
        If it cannot, or if there is no tile; the message names the argument that says where.
    """
    if not grid.tiles:
        raise ValueError(f"{name} touches no tile; take a larger one")
    reach(name, [tile.stage_x for tile in grid.tiles], stage.x)
    reach(name, [tile.stage_y for tile in grid.tiles], stage.y)


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
