"""The sequencer as a flyer under plain bluesky: documents, faults, pauses and ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus, RunEngineInterrupted, short_uid

from devices import Flight, FlightPoint, PointFailedError, Sequencer, SettingRefusedError, Tile
from devices.sequencer import SequencerError, _whole
from tests.devices.lab import Lab, Session, check_documents
from tests.support import wait_until

N = 12
STREAM = "primary"


def flight_of(lab: Lab, n: int = N, exposure: float = 0.02, x: Callable = float) -> Flight:
    """Make a flight of which point i is tile i."""
    points = [
        FlightPoint(
            x(i % 3),
            x(i // 3),
            focus=0.1 * i,
            tile={"index": i, "row": i // 3, "column": i % 3, "attempt": 1, "x": x(i % 3)}
            | {"y": x(i // 3), "waited": 0.0},
        )
        for i in range(n)
    ]
    return Flight(points, exposure, lab.camera, lab.stage, lab.scope, Tile(name="tile"))


def run(lab: Lab, flight: Flight, inner: Callable[..., Any], sequencer: Any = None) -> Any:
    """Make a plan of one run over a flight; `inner` is given the sequencer."""
    sequencer = sequencer or lab.sequencer

    lab.put("SCOPE:Screen", "Up")
    lab.put("SCOPE:Blank", "Off")

    @bpp.stage_decorator([lab.camera, sequencer])
    @bpp.run_decorator(md={"plan_name": "fly"})
    def plan() -> Any:
        yield from bps.mv(sequencer.settle, 0.0)
        yield from bps.prepare(sequencer, flight, wait=True)
        yield from bps.declare_stream(sequencer, name=STREAM, collect=True)
        yield from bps.checkpoint()
        return (yield from bpp.rewindable_wrapper(inner(sequencer), rewindable=False))

    return plan()


def fly(sequencer: Any) -> Any:
    """Fly to the end, and collect on the way."""
    yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
    flying = yield from bps.complete(sequencer, group="flight")
    while not flying.done:  # what a wait gives means nothing if a pause has cut it short
        yield from bps.wait("flight", timeout=0.05, error_on_timeout=False)
        yield from bps.collect(sequencer, name=STREAM)
    yield from collect_all(sequencer)


def collect_all(sequencer: Any) -> Any:
    while sequencer.waiting:
        yield from bps.collect(sequencer, name=STREAM)


def check(session: Session, n: int = N) -> None:
    """Check that each point is told once, in order, with its own frame on disk."""
    check_documents(session.documents)
    events = session.events()
    assert [event["tile_index"] for event in events] == list(range(n))
    means = [event["camera_stats1_mean_value"] for event in events]
    np.testing.assert_allclose([frame.mean() for frame in session.frames()], means, rtol=1e-6)
    for event in events:
        assert event["stage_x"] == pytest.approx(event["tile_x"], abs=0.1)
        assert event["stage_x_user_setpoint"] == event["tile_x"]
        assert event["scope_defocus"] == pytest.approx(0.1 * event["tile_index"])


@pytest.fixture(autouse=True)
def _as_before(lab: Lab) -> Iterator[None]:
    yield
    if lab.sequencer._staged.value != "no":
        lab.sequencer.unstage()
    lab.put("SEQ:Abort", 1)
    if lab.camera._staged.value != "no":
        lab.camera.unstage()
    lab.scope.defocus.set(0).wait(10)
    lab.stage.x.velocity.set(1000).wait(10)


def test_a_flight(lab: Lab, session: Session):
    session(run(lab, flight_of(lab), fly))
    check(session)
    assert session.one("stop")["num_events"] == {STREAM: N}
    starts = [event["sequencer_start"] for event in session.events()]
    assert np.all(np.diff(starts) > 0.02)


def test_bluesky_s_own_collect_while_completing(lab: Lab, session: Session):
    def inner(sequencer: Any) -> Any:
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        yield from bps.collect_while_completing(
            [sequencer], [sequencer], flush_period=0.1, stream_name=STREAM
        )

    session(run(lab, flight_of(lab), inner))
    check(session)
    assert len([name for name, _ in session.documents if name == "event_page"]) > 1, "on its way"


def test_a_client_that_looks_only_at_the_end(lab: Lab, session: Session):
    """More points than the monitor's array holds, and not one of its updates."""
    late = Sequencer(f"{lab.ioc.prefix}SEQ:", name="sequencer")
    late.wait_for_connection(timeout=30)
    late.recent.clear_sub(late._recent_changed)

    def inner(sequencer: Any) -> Any:
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
        assert len(session.events()) == 0
        yield from bps.collect(sequencer, name=STREAM)

    session(run(lab, flight_of(lab, 80, exposure=0.002), inner, late))
    check(session, 80)
    late.destroy()


def test_results_are_read_whole_while_time_stamps_are_read(lab: Lab, session: Session):
    """As ophyd does at connecting; pyepics lets requests of one form share an answer."""
    session(run(lab, flight_of(lab), fly))
    results = lab.sequencer.readback_x
    results.wait_for_connection(10)
    over = threading.Event()

    def read_stamps() -> None:
        while not over.is_set():
            results._read_pv.get_timevars(timeout=1)

    reading = threading.Thread(target=read_stamps)
    reading.start()
    try:
        assert {_whole(results, N).size for _ in range(300)} == {N}
    finally:
        over.set()
        reading.join(10)


def test_a_client_that_was_not_told_of_the_end(lab: Lab, session: Session):
    """It looks for itself with each sign of life that it gives."""
    deaf = Sequencer(f"{lab.ioc.prefix}SEQ:", name="sequencer")
    deaf.wait_for_connection(timeout=30)
    deaf.state.clear_sub(deaf._state_changed)
    session(run(lab, flight_of(lab, 4), fly, deaf))
    check(session, 4)
    deaf.destroy()


def test_it_is_refused_what_is_out_of_reach(lab: Lab, session: Session):
    """And what the sequencer did before is not taken for the flight that was refused."""
    session(run(lab, flight_of(lab, 3), fly))
    told = []

    def inner(sequencer: Any) -> Any:
        with pytest.raises(FailedStatus) as error:
            yield from bps.prepare(sequencer, flight_of(lab, 3, x=lambda i: 1e6 * i), wait=True)
        assert isinstance(error.value.__cause__, SettingRefusedError)
        assert "x of point 1 is 1e+06" in str(error.value)
        told.append(sequencer.waiting)
        yield from bps.collect(sequencer, name=STREAM)

    again = Session()
    again(run(lab, flight_of(lab, 3), inner))
    assert told == [0]
    assert again.events() == []
    check_documents(again.documents)


def test_a_flight_of_nothing(lab: Lab):
    with pytest.raises(ValueError, match="no points"):
        lab.sequencer.prepare(flight_of(lab, 0))


def test_kickoff_without_a_flight(lab: Lab):
    with pytest.raises(SequencerError, match="prepare one first"):
        lab.sequencer.kickoff()


def test_kickoff_that_the_ioc_refuses(lab: Lab, session: Session):
    reasons = []

    def inner(sequencer: Any) -> Any:
        lab.stage.x.velocity.set(2).wait(10)
        moving = lab.stage.x.set(8)
        wait_until(lambda: lab.pv("STAGE:X.DMOV") == 0, 5)
        with pytest.raises(FailedStatus) as error:
            yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        reasons.append(str(error.value))
        lab.stage.x.stop()
        wait_until(lambda: moving.done, 10)
        lab.stage.x.velocity.set(1000).wait(10)
        yield from fly(sequencer)
        with pytest.raises(FailedStatus) as error:  # it is done
            yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        reasons.append(str(error.value))

    session(run(lab, flight_of(lab, 3), inner))
    assert "the stage is moving" in reasons[0]
    assert "write Load before Start" in reasons[1]
    check(session, 3)


def test_a_fault_names_its_point_and_kickoff_tries_again(lab: Lab, session: Session):
    errors: list[BaseException] = []

    def inner(sequencer: Any) -> Any:
        lab.fault("LostFrame", 2)
        for _ in range(2):
            yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
            with pytest.raises(FailedStatus) as error:
                yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
            errors.append(error.value.__cause__)
        yield from fly(sequencer)

    session(run(lab, flight_of(lab), inner))
    check(session)
    assert [type(error) for error in errors] == [PointFailedError] * 2
    assert [error.point for error in errors] == [0, 0]
    assert "point 0: frame" in errors[0].reason


def test_a_point_can_be_skipped(lab: Lab, session: Session):
    def inner(sequencer: Any) -> Any:
        lab.fault("LostFrame", 1)
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        with pytest.raises(FailedStatus):
            yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
        yield from bps.abs_set(sequencer, "skip", wait=True)
        yield from fly(sequencer)

    session(run(lab, flight_of(lab, 4), inner))
    check_documents(session.documents)
    assert [event["tile_index"] for event in session.events()] == [1, 2, 3]
    session.frames()


def test_frames_of_two_files_are_told_apart(lab: Lab, session: Session):
    """A full disk ends the first file before anything of it was collected."""

    def inner(sequencer: Any) -> Any:
        yield from bps.abs_set(sequencer.hold_after, 3, wait=True)
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
        lab.fault("DiskFull", 1)
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        with pytest.raises(FailedStatus, match="No space left"):
            yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
        assert session.events() == []
        yield from collect_all(sequencer)

    session(run(lab, flight_of(lab), inner))
    check(session)
    assert len([name for name, _ in session.documents if name == "stream_resource"]) == 2


def test_a_flight_whose_client_is_silent_is_paused_and_says_so(lab: Lab, session: Session):
    def inner(sequencer: Any) -> Any:
        yield from bps.mv(sequencer.watchdog, 0.3)
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        with pytest.raises(FailedStatus, match="no client was heard of") as error:
            yield from bps.complete(sequencer, group=short_uid("complete"), wait=True)
        assert isinstance(error.value.__cause__, SequencerError)
        yield from collect_all(sequencer)

    session(run(lab, flight_of(lab, 200), inner))
    check_documents(session.documents)
    assert 0 < len(session.events()) < 200
    session.frames()
    assert lab.text("SCOPE:Blank_RBV") == "On"


def test_an_abort_by_somebody_else_ends_it(lab: Lab, session: Session):
    def inner(sequencer: Any) -> Any:
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        yield from bps.complete(sequencer, group="flight")
        lab.put("SEQ:Abort", 1)
        with pytest.raises(FailedStatus, match="was aborted"):
            yield from bps.wait("flight")
        yield from collect_all(sequencer)

    session(run(lab, flight_of(lab, 200), inner))
    check_documents(session.documents)
    session.frames()


def test_unknown_commands(lab: Lab):
    with pytest.raises(ValueError, match="'land' is no command; there are pause, skip, abort"):
        lab.sequencer.set("land")


@pytest.mark.parametrize("how", ["resume", "stop", "abort", "halt"])
def test_a_pause_of_the_run_engine(lab: Lab, session: Session, how: str):
    plan = run(lab, flight_of(lab, 20, exposure=0.1), fly)
    session.interrupt(plan, lambda: len(session.events()) >= 3)
    assert session.RE.state == "paused"
    assert lab.text("SEQ:State_RBV") == "Paused"
    lab.put("STAGE:X", 1)  # the hardware is free
    getattr(session.RE, how)()
    assert session.RE.state == "idle"
    check_documents(session.documents)
    events = session.events()
    assert [event["tile_index"] for event in events] == list(range(len(events)))
    session.frames()
    if how == "resume":
        check(session, 20)
        return
    assert 3 <= len(events) < 20
    if how != "halt":  # which promises nothing but to end
        assert lab.text("SEQ:State_RBV") == "Aborted"
    else:
        lab.sequencer.unstage()
        lab.camera.unstage()
    again = Session()
    again(run(lab, flight_of(lab, 4), fly))
    check(again, 4)


def test_a_second_pause_and_a_stop_in_full_flight(lab: Lab, session: Session):
    session.interrupt(run(lab, flight_of(lab, 20, exposure=0.1), fly), session.events)
    for count in (4, 8):
        stop = wait_in_thread(session, count)
        with pytest.raises(RunEngineInterrupted):
            session.RE.resume()
        stop()
    session.RE.stop()
    check_documents(session.documents)
    assert 8 <= len(session.events()) < 20
    session.frames()


def wait_in_thread(session: Session, count: int) -> Callable[[], None]:
    """Pause when so many events are there; give what waits for that."""
    import threading

    def pause() -> None:
        wait_until(lambda: len(session.events()) >= count, 30, period=0.002)
        session.RE.request_pause()

    thread = threading.Thread(target=pause, daemon=True)
    thread.start()
    return lambda: thread.join(30)


def test_an_ioc_that_dies_in_flight(start_ioc, session: Session):
    lab = Lab.over(start_ioc(sensor=(64, 64), specimen="points"))

    def inner(sequencer: Any) -> Any:
        yield from bps.kickoff(sequencer, group=short_uid("kickoff"), wait=True)
        yield from bps.complete(sequencer, group="flight")
        while len(session.events()) < 3:
            yield from bps.collect(sequencer, name=STREAM)
            yield from bps.sleep(0.01)
        os.kill(lab.ioc.pid, signal.SIGKILL)
        with pytest.raises(FailedStatus, match="has lost its IOC .* start it with"):
            yield from bps.wait("flight", timeout=60)

    with pytest.raises(TimeoutError, match="could not connect"):  # what was staged stays so
        session.RE(run(lab, flight_of(lab, 2000), inner))
    check_documents(session.documents)
    assert [event["tile_index"] for event in session.events()] == list(range(len(session.events())))
    session.frames()
