"""Plain bluesky plans work with our devices."""

from __future__ import annotations

import numpy as np
import pytest
from bluesky import plans as bp

from tests.devices.lab import Lab, Session, check_documents


@pytest.fixture
def lit(lab: Lab):
    lab.camera.cam.acquire_time.set(0.01).wait(10)
    lab.scope.stage()
    yield lab
    lab.scope.unstage()


def test_count(lit: Lab, session: Session):
    session(bp.count([lit.camera, lit.stage], 3))
    check_documents(session.documents)
    numbers = [event["camera_cam_array_counter"] for event in session.events()]
    assert np.diff(numbers).tolist() == [1, 1]
    assert len(session.frames()) == 3


def test_scan(lit: Lab, session: Session):
    session(bp.scan([lit.camera], lit.stage.x, -2, 2, lit.stage.y, 0, 1, 3))
    check_documents(session.documents)
    events = session.events()
    np.testing.assert_allclose([e["stage_x"] for e in events], [-2, 0, 2], atol=0.1)
    np.testing.assert_allclose([e["stage_y"] for e in events], [0, 0.5, 1], atol=0.1)


def test_grid_scan(lit: Lab, session: Session):
    plan = bp.grid_scan([lit.camera], lit.stage.y, 0, 2, 2, lit.stage.x, 0, 4, 3, snake_axes=True)
    session(plan)
    check_documents(session.documents)
    xs = [round(event["stage_x"]) for event in session.events()]
    assert xs == [0, 2, 4, 4, 2, 0]


def test_adaptive_scan(lit: Lab, session: Session):
    plan = bp.adaptive_scan(
        [lit.camera],
        "camera_stats1_mean_value",
        lit.stage.x,
        start=0,
        stop=6,
        min_step=0.5,
        max_step=3,
        target_delta=500,
        backstep=False,
    )
    session(plan)
    check_documents(session.documents)
    assert 3 <= len(session.events()) <= 13
    assert session.one("stop")["exit_status"] == "success"
