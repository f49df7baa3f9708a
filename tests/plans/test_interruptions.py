"""Pause, resume, stop, abort and halt, at any moment: no tile lost, none twice, a safe end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky.preprocessors import plan_mutator
from bluesky.utils import Msg, RunEngineInterrupted

from plans import autofocus, darkfield, montage, snap
from tests.devices.lab import Lab, Session, check_documents
from tests.support import wait_until

ROI = {"centre": (0, 0), "width": 0.9, "height": 0.9}  # 2 × 2 tiles
N_TILES = 4


def take(lab: Lab, **options):
    return montage(lab.camera, lab.stage, lab.scope, ROI, **{"settle": 0, **options})


def check_complete(session: Session) -> None:
    """Every tile is there once, with its own frame, in documents that are right."""
    check_documents(session.documents)
    events = session.events()
    assert [event["tile_index"] for event in events] == list(range(N_TILES))
    assert {event["tile_attempt"] for event in events} == {1}
    numbers = [event["camera_cam_array_counter"] for event in events]
    assert np.all(np.diff(numbers) >= 1)
    session.frames()  # each event's datum leads to the frame of its number
    assert session.one("stop")["exit_status"] == "success"


def moments(lab: Lab, session: Session) -> dict[str, Callable[[], bool]]:
    """Conditions for the middle of each kind of step, after the first tile is recorded."""

    def second_tile() -> bool:
        return len(session.events()) >= 1

    return {
        "move": lambda: second_tile() and bool(lab.stage.x.motor_is_moving.get()),
        "settle": lambda: second_tile() and session.RE.state == "running" and settling(session),
        "exposure": lambda: second_tile() and lab.camera.cam.acquire.get() == 1,
    }


def settling(session: Session) -> bool:
    return bool(session.RE._msg_cache) and session.RE._msg_cache[-1].command == "sleep"


@pytest.fixture
def slow(lab: Lab):
    """Steps long enough to be interrupted in their middle."""
    lab.stage.x.velocity.set(2.0).wait(10)
    lab.camera.cam.acquire_time.set(0.2).wait(10)
    yield {"settle": 0.15}
    lab.stage.x.velocity.set(1000).wait(10)


@pytest.mark.parametrize("moment", ["move", "settle", "exposure"])
def test_a_pause_in_the_middle_of_a_step(lab: Lab, session: Session, slow, moment: str):
    session.interrupt(take(lab, **slow), moments(lab, session)[moment])
    assert session.RE.state == "paused"
    taken = len(session.events())
    assert 1 <= taken < N_TILES
    assert lab.text("SCOPE:Blank_RBV") == "On", "the specimen is spared"
    wait_until(lambda: not lab.stage.x.moving, 10)
    lab.stage.x.velocity.set(1000).wait(10)
    lab.stage.x.set(50).wait(20)  # someone has a look elsewhere
    session.RE.resume()
    check_complete(session)
    for event in session.events():
        assert event["stage_x"] == pytest.approx(event["tile_x"], abs=0.1)
    assert min(event["camera_stats1_mean_value"] for event in session.events()) > 500
    assert lab.is_safe()


def test_a_pause_before_each_and_every_message(lab: Lab, session: Session):
    """Between any two messages of a tile, and of describing its stream."""
    paused: list[str] = []

    def pause_first(message: Msg):
        in_second_tile = len(session.events()) == 1
        if message.command == "pause" or not (
            in_second_tile or message.command == "declare_stream"
        ):
            return None, None

        def head():
            paused.append(message.command)
            yield from bps.pause()
            return (yield message)

        return head(), None

    session.interrupt(plan_mutator(take(lab), pause_first), lambda: True, lambda: None)
    while session.RE.state == "paused":
        try:
            session.RE.resume()
        except RunEngineInterrupted:
            continue
    check_complete(session)
    assert {"declare_stream", "set", "wait", "trigger", "create", "read", "save"} <= set(paused)
    assert paused.count("set") == 5, "the tile and two axes, and both on their way to the next"
    assert lab.is_safe()


def test_a_deferred_pause_waits_for_the_end_of_the_tile(lab: Lab, session: Session, slow):
    session.interrupt(
        take(lab, **slow),
        moments(lab, session)["exposure"],
        lambda: session.RE.request_pause(defer=True),
    )
    assert session.RE.state == "paused"
    assert len(session.events()) == 2
    session.RE.resume()
    check_complete(session)


def test_an_autofocus_can_be_paused_too(lab: Lab, session: Session):
    lab.camera.cam.acquire_time.set(0.1).wait(10)
    plan = take(lab, focus="once", focus_steps=7)
    session.interrupt(plan, lambda: len(session.events("focus")) == 2)
    assert session.RE.state == "paused"
    session.RE.resume()
    check_documents(session.documents)
    assert len(session.events("focus")) % 7 == 0
    assert len(session.events("autofocus")) == 1
    assert len(session.events()) == N_TILES


@pytest.mark.parametrize("how", ["stop", "abort", "halt"])
@pytest.mark.parametrize("moment", ["move", "exposure", "paused"])
def test_an_end_in_the_middle_leaves_the_microscope_safe(
    lab: Lab, session: Session, slow, moment: str, how: str
):
    end = getattr(session.RE, how)
    when = moments(lab, session)["exposure" if moment == "paused" else moment]
    if moment == "paused":
        session.interrupt(take(lab, **slow), when)
        end()
    else:
        session.interrupt(take(lab, **slow), when, end)
    assert session.RE.state == "idle"
    wait_until(lab.is_safe, 10, "the safe state")
    wait_until(lambda: not lab.pv("STAGE:X.MOVN"), 10, "the stage to stop")
    check_documents(session.documents)
    stop = session.one("stop")
    assert stop["exit_status"] == ("success" if how == "stop" else "abort")
    assert stop["num_events"]["primary"] == len(session.events()) < N_TILES
    session.frames()  # what was taken is on disk
    lab.camera.cam.acquire_time.set(0.01).wait(10)
    assert session(snap(lab.camera, lab.scope)).mean > 0, "and the instrument is ready for more"


@pytest.mark.parametrize("plan", [autofocus, darkfield])
def test_other_plans_end_safely_too(lab: Lab, session: Session, plan):
    lab.camera.cam.acquire_time.set(0.2).wait(10)
    session.interrupt(
        plan(lab.camera, lab.scope), lambda: len(session.events()) >= 1, session.RE.abort
    )
    wait_until(lab.is_safe, 10)
    assert session.one("stop")["exit_status"] == "abort"


def test_an_aborted_autofocus_goes_back_to_where_it_was(lab: Lab, session: Session):
    lab.scope.defocus.set(2.0).wait(10)
    lab.camera.cam.acquire_time.set(0.2).wait(10)
    session.interrupt(
        autofocus(lab.camera, lab.scope), lambda: len(session.events()) >= 2, session.RE.abort
    )
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(2.0, abs=1e-3)
