"""Focus by a fitted plane or surface, on a section that lies as oblique as sections ever do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest

from plans import montage
from processing.geometry import FrameGeometry, Region, measuring_tiles, plan_grid
from tests.devices.lab import Lab, Session, check_documents
from tests.support import IocProcess

ROI = {"centre": (0, 0), "width": 11.5, "height": 9.5, "angle": 3}  # 6 × 5 tiles
SLOPE = (0.2, -0.15)  # µm/µm: 4 µm from corner to corner
TOLERANCE = 1.0  # µm, a tenth of the depth in which this specimen looks sharp
SERIES = 7  # frames


@pytest.fixture(scope="module")
def oblique(module_ioc, tmp_path_factory) -> Lab:
    truth = tmp_path_factory.mktemp("oblique") / "truth.jsonl"
    ioc: IocProcess = module_ioc(
        seed=1,
        sensor=(512, 512),
        truth_log=str(truth),
        optics={"section_tilt": list(SLOPE), "height_rms": 0.0},
    )
    return Lab.over(ioc)


@pytest.fixture
def lab(oblique: Lab) -> Iterator[Lab]:
    oblique.scope.defocus.set(0).wait(10)
    yield oblique
    oblique.clear_faults()


def take(lab: Lab, focus, roi=ROI, **options):
    options = {
        "settle": 0.05,
        "exposure": 0.05,
        "overlap": 0,
        "focus_range": 30,
        "focus_steps": SERIES,
        **options,
    }
    return montage(lab.camera, lab.stage, lab.scope, roi, focus=focus, **options)


def grid_of(session: Session):
    """The grid of the montage that was taken, planned once more."""
    start = session.one("start")
    return plan_grid(
        Region.from_mapping(start["roi"]),
        FrameGeometry.from_mapping(start["calibration"]),
        tuple(start["montage"]["tile_shape"]),
        overlap=0,
    )


def fitted(fit: dict, x, y) -> np.ndarray:
    """What an event of the stream says that the focus is at places."""
    x, y = (
        np.asarray(x) - fit["focus_surface_origin_x"],
        np.asarray(y) - fit["focus_surface_origin_y"],
    )
    return (
        fit["focus_surface_defocus"]
        + fit["focus_surface_slope_x"] * x
        + fit["focus_surface_slope_y"] * y
        + fit["focus_surface_bend_xx"] * x**2
        + fit["focus_surface_bend_xy"] * x * y
        + fit["focus_surface_bend_yy"] * y**2
    )


def check_each_tile_has_its_focus(session: Session, fit: dict) -> None:
    events = session.events()
    found = [event["scope_defocus"] for event in events]
    wanted = fitted(fit, *zip(*((e["tile_x"], e["tile_y"]) for e in events), strict=True))
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize(("kind", "points"), [("plane", 5), ("surface", 9)])
def test_every_tile_is_in_focus(lab: Lab, session: Session, kind: str, points: int):
    session(take(lab, kind))
    check_documents(session.documents)
    (fit,) = session.events("focus_surface")
    assert (fit["focus_surface_shape"], fit["focus_surface_points"]) == (kind, points)
    assert (fit["focus_surface_reason"], fit["focus_surface_left_out"]) == ("", "")
    assert fit["focus_surface_rms"] < TOLERANCE
    assert len(session.events()) == 30
    check_each_tile_has_its_focus(session, fit)
    measured = sorted(event["autofocus_tile"] for event in session.events("autofocus"))
    assert measured == [tile.index for tile in measuring_tiles(grid_of(session), kind)]
    for event in session.events("focus"):
        place = event["stage_x_user_setpoint"], event["stage_y_user_setpoint"]
        assert place == pytest.approx((event["tile_x"], event["tile_y"]), abs=1e-5)
    truth = lab.truth()
    left = [truth[event["camera_cam_array_counter"]]["defocus"] for event in session.events()]
    assert np.abs(left).max() < TOLERANCE
    assert np.ptp([event["scope_defocus"] for event in session.events()]) > 2.5, "it was needed"
    assert session.documents[-1][1]["exit_status"] == "success"
    assert lab.is_safe()


def test_an_autofocus_that_fails_is_left_out(lab: Lab, session: Session, caplog):
    lab.fault("BeamDrop", SERIES)  # all frames of the first place
    with caplog.at_level(logging.WARNING, "plans"):
        session(take(lab, "plane"))
    check_documents(session.documents)
    succeeded = [event["autofocus_succeeded"] for event in session.events("autofocus")]
    assert succeeded == [0, 1, 1, 1, 1]
    (fit,) = session.events("focus_surface")
    assert (fit["focus_surface_shape"], fit["focus_surface_points"]) == ("plane", 4)
    assert "no focus found" in caplog.text
    check_each_tile_has_its_focus(session, fit)
    truth = lab.truth()
    left = [truth[event["camera_cam_array_counter"]]["defocus"] for event in session.events()]
    assert np.abs(left).max() < 1.5 * TOLERANCE


SMALL = {"centre": (0, 0), "width": 3.5, "height": 3.5, "angle": 3}  # 2 × 2 tiles


def test_with_too_few_the_last_good_focus_stays(lab: Lab, session: Session, caplog):
    lab.scope.defocus.set(-2.5).wait(10)
    lab.fault("BeamDrop", 1000)
    with caplog.at_level(logging.WARNING, "plans"):
        session(take(lab, "plane", SMALL))
    check_documents(session.documents)
    (fit,) = session.events("focus_surface")
    assert fit["focus_surface_shape"] == ""
    assert fit["focus_surface_points"] < 3  # noise may look like a focus, but not again and again
    assert fit["focus_surface_reason"].startswith("a plane needs 3 points or more")
    good = [event for event in session.events("autofocus") if event["autofocus_succeeded"]]
    last = good[-1]["autofocus_defocus"] if good else -2.5
    assert fit["focus_surface_defocus"] == pytest.approx(last)
    assert f"all tiles have the last good focus: {last:g} µm" in caplog.text
    assert [event["scope_defocus"] for event in session.events()] == pytest.approx(
        [last] * 4, abs=1e-3
    )


def test_where_the_points_bear_no_surface_it_is_a_plane(lab: Lab, session: Session):
    session(take(lab, "surface", SMALL))
    check_documents(session.documents)
    (fit,) = session.events("focus_surface")
    assert (fit["focus_surface_shape"], fit["focus_surface_points"]) == ("plane", 4)
    assert fit["focus_surface_reason"].startswith("a surface needs 6 points or more")
    check_each_tile_has_its_focus(session, fit)


class RefocusOnce:
    """A gate that wants a new focus after the sixth tile."""

    def __init__(self) -> None:
        self.asked = 0

    def advice(self, raw_uid: str):
        self.asked += 1
        return {"refocus": self.asked == 6}

    def failed(self, raw_uid: str, timeout: float):
        return []


def test_what_a_later_autofocus_finds_holds_for_all_tiles_after_it(lab: Lab, session: Session):
    session(take(lab, "plane", gate=RefocusOnce()))
    check_documents(session.documents)
    (fit,) = session.events("focus_surface")
    *_, refocus = session.events("autofocus")
    assert len(session.events("autofocus")) == 6
    events = session.events()
    tile = refocus["autofocus_tile"]
    offsets = [
        event["scope_defocus"] - fitted(fit, event["tile_x"], event["tile_y"]) for event in events
    ]
    np.testing.assert_allclose(offsets[:tile], 0, atol=2e-4)
    np.testing.assert_allclose(offsets[tile:], offsets[tile], atol=3e-4)
    assert events[tile]["scope_defocus"] == pytest.approx(refocus["autofocus_defocus"], abs=1e-3)


def test_a_pause_while_it_is_measured(lab: Lab, session: Session):
    session.interrupt(take(lab, "plane", SMALL), lambda: len(session.events("focus")) == SERIES + 2)
    assert session.RE.state == "paused"
    lab.scope.defocus.set(30).wait(10)  # someone has a look
    session.RE.resume()
    check_documents(session.documents)
    (fit,) = session.events("focus_surface")
    assert fit["focus_surface_points"] == 4
    assert [event["tile_index"] for event in session.events()] == list(range(4))
    check_each_tile_has_its_focus(session, fit)
    assert lab.is_safe()
