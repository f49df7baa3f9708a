"""The engine of sequences: whatever fails and whoever interrupts, each point is done or named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioc import sequence, settling
from ioc.sequence_protocol import FaultCode
from tests.ioc.sequence_lab import CODES, FAST, FAULTS, FakeHardware, Flight, line
from tests.support import wait_until

N = 6
COMMANDS = ("pause", "resume", "skip", "abort", "load", "start", "hold")


@contextmanager
def flown(script=None, n: int = N, exposure: float = 0.001, **options) -> Iterator[Flight]:
    """Make a flight over fake hardware, whose threads end with it."""
    flight = Flight(FakeHardware(script, **options))
    flight.engine.load(line(n, exposure))
    try:
        yield flight
    finally:
        flight.hardware.held_back.set()
        flight.engine.abort()
        flight.rest()
        flight.hardware.close()


@pytest.fixture
def flights() -> Iterator:
    """Make flights that end with the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(flown(*args, **options))


def test_points_are_done_in_order(flights):
    flight = flights()
    flight.engine.start()
    assert flight.rest().state == "Done"
    flight.check(N)
    assert flight.engine.results.order == list(range(N))
    assert [status.state for status in flight.statuses] == ["Loaded", "Running", "Done"]
    assert flight.engine.index == N


@pytest.mark.parametrize("point", [0, 2, N - 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_the_point_done_when_it_goes_on(flights, fault, point):
    flight = flights({point: [fault]})
    flight.engine.start()
    status = flight.rest()
    assert (status.state, status.failed) == ("Fault", point)
    assert flight.engine.results.fault[point] == CODES[fault]
    assert flight.engine.index == point
    flight.check(N, whole=False)
    assert flight.finish().state == "Done"
    flight.check(N)
    assert sorted(flight.engine.results.order) == list(range(N))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_point_that_is_skipped_stays_named(flights, fault):
    flight = flights({2: [fault] * 9, N - 1: [fault] * 9})
    flight.engine.start()
    assert flight.finish(skip=True).state == "Done"
    flight.check(N)
    assert flight.skipped == [2, N - 1]
    assert flight.engine.results.fault[2] == CODES[fault]


@pytest.mark.parametrize(("first", "second"), list(permutations(FAULTS, 2)))
def test_two_faults_at_once(flights, first, second):
    """Points 2 and 3: while 3 fails at the stage, the frame of 2 may turn out to be lost."""
    flight = flights({2: [first], 3: [second]}, writing=0.002)
    flight.engine.start()
    assert flight.rest().failed == 2, "the earlier point is named first"
    assert flight.finish().state == "Done"
    flight.check(N)
    assert flight.engine.results.fault[2] == CODES[first]
    if first != "lost":  # known so soon that 3 may be left before it fails
        assert flight.engine.results.fault[3] == CODES[second]


def test_frames_that_are_lost_while_the_stage_is_far_ahead(flights):
    flight = flights({1: ["unwritten"], 2: ["unwritten"]})
    flight.hardware.held_back.clear()
    flight.engine.start()
    wait_until(lambda: flight.hardware.exposures[2] == 1, 5, "two frames are on their way")
    flight.hardware.held_back.set()
    assert flight.rest().failed == 1
    assert flight.engine.results.fault[2] == FaultCode.NOT_WRITTEN
    flight.finish()
    flight.check(N)


def test_no_more_than_some_frames_are_unwritten(flights):
    flight = flights(n=12)
    flight.hardware.held_back.clear()
    flight.engine.start()
    most = sequence.MOST_UNWRITTEN + 1
    wait_until(lambda: flight.hardware.exposures.total() == most, 5, "the disk is behind")
    with pytest.raises(AssertionError):
        wait_until(lambda: flight.hardware.exposures.total() > most, 0.1)
    flight.hardware.held_back.set()
    assert flight.rest().state == "Done"
    flight.check(12)


def test_a_frame_that_comes_too_late_is_not_entered_twice(flights, monkeypatch):
    monkeypatch.setattr(sequence, "FRAME_TIMEOUT", 0.05)
    flight = flights()
    flight.hardware.held_back.clear()
    flight.engine.start()
    status = flight.rest()
    assert (status.state, status.failed) == ("Fault", 0)
    assert flight.engine.results.fault[0] == FaultCode.NOT_WRITTEN
    flight.hardware.held_back.set()
    wait_until(lambda: flight.hardware.file, 5, "it came after all")
    monkeypatch.setattr(sequence, "FRAME_TIMEOUT", 30)
    assert flight.finish().state == "Done"
    flight.check(N)
    assert flight.hardware.file.count(0) == 2, "one of which nothing refers to"


@pytest.mark.parametrize(
    "late", ["move", "exposure", "write", "after the last"], ids=lambda late: late.replace(" ", "-")
)
@pytest.mark.parametrize("command", ["pause", "abort"])
def test_interruptions(flights, command, late):
    options = {"move": {"travel": 0.2}, "exposure": {"exposure": 0.3}}.get(late, {})
    flight = flights(**options)
    hardware, engine = flight.hardware, flight.engine
    if late in ("write", "after the last"):
        hardware.held_back.clear()
    engine.start()
    if late == "move":
        wait_until(lambda: len(engine.results.order) == 1, 5, "the first point")
    elif late == "exposure":
        wait_until(lambda: hardware.exposures[1], 5, "the second exposure", period=0.001)
    else:
        wait_until(lambda: hardware.exposures[2], 5, "frames wait for the disk")
    began = time.monotonic()
    getattr(engine, command)()
    if late == "after the last":
        engine.pause()
        engine.abort()
    threading.Timer(0.05, hardware.held_back.set).start()
    status = flight.rest()
    aborted = command == "abort" or late == "after the last"
    assert status.state == ("Aborted" if aborted else "Paused")
    flight.check(N, whole=False)
    if late == "exposure":
        assert hardware.exposures[1] == 1
        assert (1 in engine.results.order) == (command == "pause")
        assert (time.monotonic() - began < 0.25) == (command == "abort")
        assert not engine.results.fault.any(), "to be aborted is no fault"
    if command == "abort" and late == "move":
        assert hardware.calls == ["stop"]
    if not aborted:
        assert flight.finish().state == "Done"
        flight.check(N)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", ["pause", "abort"])
def test_a_fault_while_it_is_to_rest(flights, command, fault):
    """The fault is told all the same; an abort only ends."""
    flight = flights({2: [fault]}, writing=0.01)
    hook, moments = flight.hardware.move, [getattr(flight.engine, command)]

    def move(x: float, y: float) -> float:
        if x == 2 and moments:
            moments.pop()()
        return hook(x, y)

    flight.hardware.move = move
    flight.engine.start()
    flight.rest()
    flight.check(N, whole=False)
    if command == "abort":
        assert flight.state == "Aborted"
    else:
        assert flight.state in ("Paused", "Fault")
        assert flight.finish().state == "Done"
        flight.check(N)


def test_what_is_refused(flights):
    flight = flights({1: ["camera"]}, exposure=0.05)
    engine = flight.engine
    for command, text in ((engine.resume, "nothing to resume"), (engine.skip, "no point to skip")):
        with pytest.raises(ValueError, match=f"Loaded: .*{text}"):
            command()
    engine.start()
    with pytest.raises(ValueError, match="is running"):
        engine.load(line(2))
    for command in (engine.start, engine.resume, engine.skip):
        with pytest.raises(ValueError, match="Running"):
            command()
    assert flight.rest().state == "Fault"
    with pytest.raises(ValueError, match="write Load before Start"):
        engine.start()
    with pytest.raises(ValueError, match="point 1 is next"):
        engine.hold(0)
    engine.skip()
    with pytest.raises(ValueError, match="no point to skip"):
        engine.skip()
    flight.skipped.append(1)
    flight.finish()
    flight.check(N)
    with pytest.raises(ValueError, match="Done"):
        engine.resume()


def test_hardware_that_cannot_be_had_changes_nothing(flights):
    flight = flights()
    flight.hardware.begin_error = "the stage is moving"
    with pytest.raises(Exception, match="the stage is moving"):
        flight.engine.start()
    assert flight.state == "Loaded"
    flight.hardware.begin_error = ""
    flight.engine.start()
    assert flight.finish().state == "Done"
    flight.check(N)


def test_optics_that_cannot_be_brought_back_are_told_of(flights):
    flight = flights()
    flight.hardware.release_error = "defocus does not answer"
    flight.engine.start()
    status = flight.rest()
    assert status.state == "Done"
    assert "could not be brought back" in status.message
    assert "defocus does not answer" in status.message


def test_a_load_at_rest_begins_anew(flights):
    flight = flights({1: ["camera"]})
    flight.engine.start()
    assert flight.rest().state == "Fault"
    flight.engine.load(line(3))
    flight.told.clear()
    assert flight.engine.status.failed == -1
    flight.engine.start()
    assert flight.finish().state == "Done"
    assert sorted(flight.engine.results.order) == [0, 1, 2]


def test_abort_at_rest_is_final(flights):
    flight = flights({1: ["camera"]})
    flight.engine.start()
    flight.rest()
    flight.engine.abort()
    assert flight.state == "Aborted"
    with pytest.raises(ValueError, match="nothing to resume"):
        flight.engine.resume()


class TestHold:
    @pytest.mark.parametrize("point", [0, 3])
    def test_it_rests_after_that_point(self, flights, point):
        flight = flights()
        flight.engine.hold(point)
        flight.engine.start()
        assert flight.rest().state == "Held"
        assert flight.engine.results.order == list(range(point + 1))
        assert flight.engine.hold_after == -1
        assert flight.finish().state == "Done"
        flight.check(N)

    def test_after_the_last_it_is_done(self, flights):
        flight = flights()
        flight.engine.hold(N - 1)
        flight.engine.start()
        assert flight.rest().state == "Done"

    def test_a_frame_that_is_lost_comes_first_and_it_is_still_held(self, flights):
        flight = flights({2: ["lost"]})
        flight.engine.hold(2)
        flight.engine.start()
        assert flight.rest().failed == 2
        flight.engine.resume()
        assert flight.rest().state == "Held"
        assert flight.engine.results.order == [0, 1, 2]

    def test_while_it_runs_it_is_kept_or_refused(self, flights):
        """Asked for at any moment: it rests right after that point, or says that it is past."""
        flight = flights(n=300, exposure=0.0002, travel=0.0001)
        engine = flight.engine
        engine.start()
        kept = refused = 0
        while engine.running:
            wanted = engine.index
            try:
                engine.hold(wanted)
            except ValueError:
                refused += 1
                continue
            status = flight.rest()
            if status.state == "Done":
                assert wanted >= 299
                break
            kept += 1
            assert status.state == "Held"
            assert engine.results.order[-1] == wanted
            engine.resume()
        flight.check(300)
        assert kept > 10


class TestWatchdog:
    def test_it_rests_and_blanks_when_nobody_is_heard_of(self, flights):
        flight = flights(n=400)
        flight.engine.rules = replace(FAST, watchdog=0.1)
        flight.engine.start()
        status = flight.rest()
        assert status.state == "Paused"
        assert "no client was heard of" in status.message
        assert flight.hardware.calls == ["blank"]
        done = len(flight.engine.results.order)
        assert 0 < done < 400
        flight.engine.resume()
        assert flight.rest().state == "Paused", "to resume it counts as a sign of life, once"
        assert len(flight.engine.results.order) > done

    @pytest.mark.parametrize(("heard", "state"), [(True, "Done"), (False, "Paused")])
    def test_it_goes_on_as_long_as_somebody_is_there(self, flights, monkeypatch, heard, state):
        flight = flights()
        flight.engine.rules = replace(FAST, watchdog=300.0)
        expose = flight.hardware.expose

        def expose_for_long(exposure):
            expose(exposure)
            flight.engine._heard -= 200  # so many seconds ago it was, then
            if heard:
                flight.engine.heard()

        monkeypatch.setattr(flight.hardware, "expose", expose_for_long)
        flight.engine.start()
        assert flight.rest().state == state

    def test_a_beam_that_cannot_be_blanked_is_told_of(self, flights):
        flight = flights(n=400)
        flight.hardware.blank = lambda: 1 / 0
        flight.engine.rules = replace(FAST, watchdog=0.05)
        flight.engine.start()
        assert "could not be blanked" in flight.rest().message


class TestSettling:
    def test_image_shift_makes_up_for_a_stage_that_stops_short(self, flights):
        flight = flights({2: ["elsewhere"]})
        flight.engine.rules = replace(FAST, shift_limit=1.5)
        flight.engine.start()
        assert flight.rest().state == "Done"
        assert flight.hardware.calls == ["shift -1 0"]
        assert flight.engine.results.x[2] == 3.0, "where the stage really stood"

    def test_a_stage_that_moves_for_ever_has_stalled(self, flights, monkeypatch):
        monkeypatch.setattr(settling, "STALL_TIME", 0.05)
        flight = flights(travel=60.0)
        flight.engine.start()
        status = flight.rest()
        assert status.failed == 0
        assert "says that it moves" in status.message
        assert flight.engine.results.fault[0] == FaultCode.STALL
        assert flight.hardware.calls == ["stop"]

    def test_it_stays_in_position_as_long_as_is_asked(self, flights):
        flight = flights()
        flight.engine.rules = replace(FAST, settle=0.02)
        flight.engine.start()
        flight.rest()
        assert flight.engine.results.settle.min() >= 0.02


def obey(flight: Flight, commands: list[tuple[str, float]]) -> None:
    """Give commands at some moments, and take refusals as they come."""
    for command, delay in commands:
        time.sleep(delay)
        engine = flight.engine
        failed = engine.status.failed
        try:
            if command == "load":
                engine.load(line(N))
            elif command == "hold":
                engine.hold(engine.index)
            else:
                getattr(engine, command)()
        except ValueError:
            continue
        if command == "skip":
            flight.skipped.append(failed)
        if command == "load":
            flight.skipped.clear()


faults = st.sampled_from((*FAULTS, ""))
scripts = st.dictionaries(st.integers(0, N - 1), st.lists(faults, max_size=3), max_size=N)
moments = st.sampled_from((0.0, 0.0005, 0.002, 0.005))


@settings(max_examples=150, deadline=None)
@given(
    script=scripts,
    commands=st.lists(
        st.tuples(st.sampled_from(("pause", "resume", "skip", "hold")), moments), max_size=12
    ),
    writing=moments,
)
def test_whatever_happens_each_point_is_done_once_or_named(script, commands, writing):
    with flown(script, writing=writing) as flight:
        flight.engine.start()
        obey(flight, commands)
        assert flight.finish().state == "Done"
        flight.check(N)


@settings(max_examples=100, deadline=None)
@given(
    script=scripts,
    commands=st.lists(st.tuples(st.sampled_from(COMMANDS), moments), max_size=16),
    writing=moments,
)
def test_whatever_is_asked_it_can_always_be_loaded_and_flown_again(script, commands, writing):
    with flown(script, writing=writing) as flight:
        flight.engine.start()
        obey(flight, commands)
        flight.engine.abort()
        assert flight.rest().state in ("Aborted", "Done", "Loaded")
        flight.told.clear()
        flight.skipped.clear()
        flight.engine.load(line(N))
        flight.engine.start()
        assert flight.finish().state == "Done"
        flight.check(N)
