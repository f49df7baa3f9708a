"""Bad arguments of every plan: refused at the door, with a message to act on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from plans import (
    autofocus,
    brightfield,
    darkfield,
    focus_series,
    lens_correction,
    montage,
    snap,
)
from processing.geometry import ImageShift
from tests.devices.lab import Lab, Session

ROI = {"centre": (0, 0), "width": 1, "height": 1}

MONTAGE = [
    ({"roi": 7}, TypeError, "roi is 7; it must be a Region, or a mapping with vertices"),
    ({"roi": {"width": 3}}, ValueError, "roi is {'width': 3}: "),
    ({"roi": {"vertices": [(0, 0), (1, 1)]}}, ValueError, "a region needs three or more"),
    (
        {"roi": {"vertices": [(0, 0), (2, 2), (2, 0), (0, 1)]}},
        ValueError,
        "make edges that cross",
    ),
    ({"roi": {**ROI, "width": -1}}, ValueError, "both must be positive"),
    (
        {"roi": {**ROI, "centre": (1500, 0)}},
        ValueError,
        r"roi needs stage_x from 1499[.]\d* to 1500[.]\d* um; it goes from -1000 to 1000 um",
    ),
    (
        {"roi": {**ROI, "centre": (0, -1500)}},
        ValueError,
        r"roi needs stage_y from .* it goes from -1000 to 1000 um",
    ),
    (
        {"roi": {**ROI, "width": 900, "height": 900}},
        ValueError,
        "at most 100000 are allowed: take a smaller region",
    ),
    ({"overlap": -1}, ValueError, "overlap is -1 %; it must lie between 0 and 100 %"),
    ({"overlap": 95}, ValueError, "overlap is 95 %; it must lie between 0 and 90"),
    ({"overlap": "much"}, TypeError, "overlap is 'much'; it must be a number"),
    ({"min_overlap": 0.6}, ValueError, "min_overlap is 0.6 µm; it must lie between 0 and 0.4"),
    ({"pattern": "spiral"}, ValueError, "pattern is 'spiral'; it must be one of raster, serpe"),
    ({"settle": -0.1}, ValueError, "settle is -0.1 s; it must lie between 0 and 60 s"),
    ({"settle": float("nan")}, ValueError, "settle is nan s; it must lie between 0 and 60 s"),
    ({"exposure": 1e6}, ValueError, r"exposure is 1e\+06 s; it must lie between .* and .* s"),
    ({"exposure": 0}, ValueError, "exposure is 0 s; it must lie between"),
    ({"exposure": "long"}, TypeError, "exposure is 'long'; it must be a number"),
    (
        {"focus": "often"},
        ValueError,
        "focus is 'often'; it must be one of none, once, row, plane, surface, or a",
    ),
    (
        {"focus": 0},
        ValueError,
        "focus is 0; it must be one of none, once, row, plane, surface, or a whole number",
    ),
    ({"focus": True}, ValueError, "focus is True; it must be one of"),
    (
        {"focus": "row", "focus_range": 500},
        ValueError,
        "focus_range is 500 µm; it must lie between 0 and 400 µm",
    ),
    (
        {"focus": "row", "focus_range": 0},
        ValueError,
        "focus_range is 0 µm; it must be above 0 and at most 400 µm",
    ),
    ({"focus": "row", "focus_steps": 3}, ValueError, "steps is 3; it must lie between 7 and 101"),
    ({"retakes": -1}, ValueError, "retakes is -1; it must lie between 0 and 10"),
    ({"retakes": 1.5}, TypeError, "retakes is 1.5; it must be a whole number"),
    ({"references": "uid"}, TypeError, "references is 'uid'; it must map bright, dark, lens to"),
    (
        {"references": {"gain": "u"}},
        ValueError,
        "references has gain; the kinds are bright, dark, lens",
    ),
    ({"references": {"dark": 3}}, TypeError, r"references\['dark'\] is 3; it must be a text"),
    ({"block": 16}, ValueError, "block is 16; it must lie between 1 and 15"),
    ({"block": 2.0}, TypeError, "block is 2.0; it must be a whole number"),
    (
        {"pattern": "blocks", "image_shift": ImageShift(most_shift=0.3)},
        ValueError,
        "block is 3, and its corner tiles need an image shift of 0.6.* block must be 1 or less",
    ),
    (
        {"pattern": "blocks", "image_shift": ImageShift(scale=0.01)},
        ValueError,
        "block needs scope_image_shift_x from -.* to .* um; it goes from -20 to 20 um",
    ),
    ({"image_shift": 3}, TypeError, "image_shift is 3; it must be an ImageShift"),
    ({"gate": object()}, TypeError, "gate is .* which has no advice, failed"),
    ({"max_behind": 0}, ValueError, "max_behind is 0; it must lie between 1 and 100000"),
    ({"sample": 7}, TypeError, "sample is 7; it must be a text or a mapping"),
    ({"operator": 7}, TypeError, "operator is 7; it must be a text"),
]

EXPOSURE = ({"exposure": -1}, ValueError, "exposure is -1 s; it must lie between")
SAMPLE = ({"sample": 7}, TypeError, "sample is 7; it must be a text or a mapping")

SERIES = [
    EXPOSURE,
    SAMPLE,
    ({"centre": 300}, ValueError, "centre is 300 µm; it must lie between -200 and 200 µm"),
    (
        {"centre": 195},
        ValueError,
        "focus_range is 20 µm about 195 µm, which is from 185 to 205 µm; scope_defocus goes from",
    ),
    ({"focus_range": 0}, ValueError, "focus_range is 0 µm; it must be above 0"),
    ({"settle": 61}, ValueError, "settle is 61 s; it must lie between 0 and 60 s"),
]

AUTOFOCUS = [
    *SERIES,
    ({"steps": 4}, ValueError, "steps is 4; it must lie between 7 and 101"),
    ({"min_quality": 2}, ValueError, "min_quality is 2; it must lie between 0 and 1"),
    ({"expansions": 9}, ValueError, "expansions is 9; it must lie between 0 and 5"),
]

FOCUS_SERIES = [
    *SERIES,
    ({"steps": 1}, ValueError, "steps is 1; it must lie between 2 and 101"),
    ({"steps": 5.0}, TypeError, "steps is 5.0; it must be a whole number"),
]

BRIGHTFIELD = [
    EXPOSURE,
    SAMPLE,
    ({"frames": 0}, ValueError, "frames is 0; it must lie between 1 and 1000"),
    ({"pitch": -5}, ValueError, "pitch is -5 µm; it must lie between 0 and 1000 µm"),
    (
        {"pitch": 900, "frames": 16},
        ValueError,
        r"pitch needs stage_x from .* um; it goes from -1000 to 1000 um",
    ),
    ({"settle": -1}, ValueError, "settle is -1 s; it must lie between 0 and 60 s"),
]

DARKFIELD = [EXPOSURE, SAMPLE, ({"frames": 1001}, ValueError, "frames is 1001; it must lie bet")]

LENS_CORRECTION = [
    EXPOSURE,
    SAMPLE,
    ({"centre": 3}, TypeError, r"centre is 3; it must be a pair \(x, y\) in µm"),
    ({"centre": (0, "far")}, TypeError, "y of centre is 'far'; it must be a number"),
    (
        {"centre": (999.9, 0)},
        ValueError,
        r"centre needs stage_x from 999[.]\d* to 1000[.]\d* um; it goes from -1000 to 1000 um",
    ),
    ({"overlap": 10}, ValueError, "overlap is 10 %; it must lie between 20 and 80 %"),
    ({"side": 1}, ValueError, "side is 1; it must lie between 2 and 9"),
    ({"settle": -1}, ValueError, "settle is -1 s; it must lie between 0 and 60 s"),
    ({"retries": 1.5}, TypeError, "retries is 1.5; it must be a whole number"),
    ({"references": {"lens": "uid"}}, ValueError, "tiles that a lens is fitted to are not corr"),
]

SNAP = [EXPOSURE, SAMPLE, ({"stage": 3}, TypeError, "stage is 3, which has no x, y; it must be")]


def cases() -> list[Any]:
    plans = {
        montage: (MONTAGE, "camera stage scope roi"),
        snap: (SNAP, "camera scope"),
        focus_series: (FOCUS_SERIES, "camera scope"),
        autofocus: (AUTOFOCUS, "camera scope"),
        brightfield: (BRIGHTFIELD, "camera stage scope"),
        darkfield: (DARKFIELD, "camera scope"),
        lens_correction: (LENS_CORRECTION, "camera stage scope centre"),
    }
    found = []
    for plan, (bad, names) in plans.items():
        swapped = ({"camera": 1}, TypeError, "camera is 1, which has no cam, hdf1, stats1, trigger")
        other = ({"scope": "x"}, TypeError, "scope is 'x', which has no defocus, blank, screen, ")
        for number, case in enumerate([*bad, swapped, other]):
            label = f"{plan.__name__}-{'-'.join(case[0])}-{number}"
            found.append(pytest.param(plan, names.split(), *case, id=label))
    return found


@pytest.mark.parametrize(("plan", "names", "bad", "error", "message"), cases())
def test_a_bad_argument_is_refused_before_anything_is_done(  # noqa: PLR0917
    lab: Lab, session: Session, plan, names, bad, error, message
):
    messages = []
    session.RE.msg_hook = messages.append
    known = {"camera": lab.camera, "stage": lab.stage, "scope": lab.scope, "roi": ROI}
    known["centre"] = (0.0, 0.0)
    arguments = {name: known[name] for name in names} | bad
    positional = [arguments.pop(name) for name in names]
    with pytest.raises(error) as caught:
        session(plan(*positional, **arguments))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert {message.command for message in messages} <= {"read"}, "it may look, but not touch"
    assert not session.documents
