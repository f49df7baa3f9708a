"""A montage that a quality gate steers: retakes, refocusing, waiting, ends, and gates that fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
from bluesky.simulators import summarize_plan

from plans import Advice, QualityGate, montage, steering
from plans import gate as gate_module
from tests.devices.lab import Lab, Session, check_documents
from tests.support import wait_until

ROWS_OF_3 = {"centre": (0, 0), "width": 1.3, "height": 1.3}  # 3 × 3 tiles, serpentine
FOUR_ROWS_OF_3 = {"centre": (0, 0), "width": 1.3, "height": 1.75}
TWO_BY_TWO = {"centre": (0, 0), "width": 0.9, "height": 0.9}


def take(lab: Lab, gate: Any, roi=ROWS_OF_3, **options):
    options = {"settle": 0, "focus_steps": 7, **options}
    return montage(lab.camera, lab.stage, lab.scope, roi, gate=gate, **options)


def takes(session: Session) -> list[tuple[int, int]]:
    """Each tile and attempt, in the order in which they were taken."""
    return [(event["tile_index"], event["tile_attempt"]) for event in session.events()]


def order(session: Session) -> list[int]:
    return [index for index, _ in takes(session)]


class Judge:
    """A gate that fails some tiles in their first attempts, and judges after a lag.

    `bad` says how many attempts of a tile fail; `lag` how many takes it is behind.
    """

    def __init__(self, session: Session, bad: Mapping[int, int], lag: int = 0) -> None:
        self.session, self.bad, self.lag = session, bad, lag
        self.uids: list[str] = []

    def advice(self, raw_uid: str) -> dict[str, Any]:
        self.uids.append(raw_uid)
        taken = takes(self.session)
        failing = self.failing(taken[: len(taken) - self.lag])
        return {
            "decision": "retake" if failing else "good",
            "retake": failing,
            "behind": min(self.lag, len(taken)),
        }

    def failed(self, raw_uid: str, timeout: float) -> list[int]:
        self.uids.append(raw_uid)
        return self.failing(takes(self.session))

    def failing(self, judged: Sequence[tuple[int, int]]) -> list[int]:
        last = dict(judged)  # later takes replace earlier ones
        return [index for index, attempt in last.items() if attempt <= self.bad.get(index, 0)]


class Script:
    """A gate that gives chosen advice when so many tiles are taken, and is content otherwise."""

    def __init__(self, session: Session, advice: Mapping[int, Any], failed: Any = ()) -> None:
        self.session, self.script = session, advice
        self.rounds = list(failed)

    def advice(self, raw_uid: str) -> Any:
        said = self.script.get(len(self.session.events()), {})
        return said() if callable(said) else said

    def failed(self, raw_uid: str, timeout: float) -> list[int]:
        return self.rounds.pop(0) if self.rounds else []


class Always(Script):
    """A gate that says the same after each tile."""

    def __init__(self, said: Any) -> None:
        self.said = said
        self.rounds = []

    def advice(self, raw_uid: str) -> Any:
        return self.said() if callable(self.said) else self.said


# --- retakes


def test_failing_tiles_are_taken_again_at_the_end_of_their_row(lab: Lab, session: Session):
    gate = Judge(session, {1: 1, 3: 1})
    assert isinstance(gate, QualityGate)
    result = session(take(lab, gate))
    check_documents(session.documents)
    assert order(session) == [0, 1, 2, 1, 3, 4, 5, 3, 6, 7, 8]
    assert [attempt for index, attempt in takes(session) if index in {1, 3}] == [1, 2, 1, 2]
    assert (result.tiles, result.retaken, result.failed, result.stop) == (9, 2, (), "")
    assert set(gate.uids) == {result.uid}
    stop = session.one("stop")
    assert (stop["exit_status"], stop["reason"]) == ("success", "")
    assert session.one("start")["plan_args"]["gate"] == "Judge"
    for event in session.events():
        assert event["stage_x"] == pytest.approx(event["tile_x"], abs=0.1)
    session.frames()
    assert lab.is_safe()


def test_a_whole_row_is_taken_again_on_the_way_back(lab: Lab, session: Session):
    session(take(lab, Judge(session, {0: 1, 1: 1, 2: 1})))
    assert order(session)[:6] == [0, 1, 2, 2, 1, 0], "the stage does not run back first"


def test_no_tile_is_taken_again_more_often_than_allowed(lab: Lab, session: Session):
    result = session(take(lab, Judge(session, {1: 99}), retakes=2))
    check_documents(session.documents)
    assert [attempt for index, attempt in takes(session) if index == 1] == [1, 2, 3]
    assert len(session.events()) == 9 + 2
    assert result.failed == (1,), "and it is said that it is still bad"


def test_with_no_retakes_the_gate_is_asked_but_nothing_is_taken_again(lab: Lab, session: Session):
    result = session(take(lab, Judge(session, {1: 1}), retakes=0))
    assert order(session) == list(range(9))
    assert result.failed == (1,)


def test_a_tile_that_is_judged_late_is_taken_again_at_the_end_of_a_later_row(
    lab: Lab, session: Session
):
    """After the second row the verdict on tile 2 is there; that on its retake comes late, too."""
    session(take(lab, Judge(session, {2: 1}, lag=4), FOUR_ROWS_OF_3, retakes=3))
    assert order(session) == [*range(9), 2, 9, 10, 11], "once, not on the old verdict again"


def test_what_fails_last_is_taken_again_after_the_last_row(lab: Lab, session: Session):
    session(take(lab, Judge(session, {3: 2, 0: 1}, lag=4), TWO_BY_TWO, retakes=3))
    check_documents(session.documents)
    assert takes(session) == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (3, 2), (3, 3)] or (
        takes(session) == [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (0, 2), (3, 3)]
    )


def test_what_is_known_only_at_the_end_is_taken_again_then(lab: Lab, session: Session):
    session(take(lab, Script(session, {}, failed=[[2, 0, 2], [0], []]), TWO_BY_TWO, retakes=3))
    check_documents(session.documents)
    assert takes(session)[:4] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert sorted(takes(session)[4:6]) == [(0, 2), (2, 2)]
    assert takes(session)[6:] == [(0, 3)]


# --- focus


def focused_tiles(session: Session) -> list[int]:
    return [event["autofocus_tile"] for event in session.events("autofocus")]


def test_the_gate_has_the_next_tile_focused(lab: Lab, session: Session):
    session(take(lab, Script(session, {2: {"refocus": True, "reason": "it blurs"}})))
    check_documents(session.documents)
    assert focused_tiles(session) == [2]
    frames = session.events("focus")
    assert len(frames) % 7 == 0
    assert {frame["tile_index"] for frame in frames} == {2}
    assert order(session) == list(range(9))
    assert lab.is_safe()


def test_a_gate_that_always_asks_for_focus_cannot_loop(lab: Lab, session: Session):
    session(take(lab, Always({"refocus": True})))
    assert focused_tiles(session) == [1, 1 + steering.REFOCUS_DISTANCE]
    assert len(session.events()) == 9


def test_advice_to_focus_waits_for_the_least_distance(lab: Lab, session: Session):
    """It is given once, two tiles after the first row was focused, and done when it may be."""
    gate = Script(session, {2: {"refocus": True}})
    session(take(lab, gate, focus="once"))
    assert focused_tiles(session) == [0, steering.REFOCUS_DISTANCE]


def test_a_retake_is_focused_if_the_gate_says_so(lab: Lab, session: Session):
    said = {"decision": "retake", "retake": [0], "refocus": True}
    session(take(lab, Script(session, {3: said})))
    assert order(session)[:4] == [0, 1, 2, 0]
    assert focused_tiles(session) == [0]
    assert [frame["tile_attempt"] for frame in session.events("focus")] == [2] * 7


# --- ends


def test_stop_now_ends_the_montage_at_once(lab: Lab, session: Session, caplog):
    said = {"decision": "stop_now", "reason": "no beam in three tiles", "refocus": True}
    result = session(take(lab, Script(session, {4: said}), focus="row"))
    assert order(session) == [0, 1, 2, 3]
    assert lab.is_safe()
    assert session.RE.state == "idle"
    check_documents(session.documents)
    stop = session.one("stop")
    assert stop["exit_status"] == "abort"
    assert stop["reason"] == (
        "the quality gate ended it after 4 of 9 tiles: no beam in three tiles"
    )
    assert (result.stop, result.reason, result.tiles) == ("now", "no beam in three tiles", 4)
    assert "ends the montage: no beam in three tiles" in caplog.text
    session.frames()


def test_stop_now_ends_retakes_too(lab: Lab, session: Session):
    bad = {"decision": "retake", "retake": [0, 1, 2]}
    stop = {"decision": "stop_now", "reason": "worse"}
    session(take(lab, Script(session, {3: bad, 4: stop})))
    assert takes(session) == [(0, 1), (1, 1), (2, 1), (2, 2)]
    assert session.one("stop")["exit_status"] == "abort"


def test_stop_at_end_finishes_the_montage_and_says_so(lab: Lab, session: Session, caplog):
    said = {"decision": "stop_at_end", "reason": "a third of the tiles fail", "retake": [1]}
    result = session(take(lab, Script(session, {3: said})))
    check_documents(session.documents)
    assert order(session) == [0, 1, 2, 1, *range(3, 9)]
    stop = session.one("stop")
    assert (stop["exit_status"], stop["reason"]) == (
        "success",
        "complete; the quality gate wants to stop here: a third of the tiles fail",
    )
    assert (result.stop, result.reason) == ("at_end", "a third of the tiles fail")
    assert "wants to stop after this montage" in caplog.text


def test_the_stronger_stop_counts(lab: Lab, session: Session):
    late = {"decision": "stop_at_end", "reason": "so so"}
    now = {"decision": "stop_now", "reason": "bad"}
    result = session(take(lab, Script(session, {1: late, 2: now}), TWO_BY_TWO))
    assert (result.stop, result.reason, result.tiles) == ("now", "bad", 2)


# --- waiting for the processing


@pytest.fixture
def slow_processing(session: Session) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A gate that is far behind after two tiles until it is let go."""
    free = threading.Event()

    def backlog() -> dict[str, int]:
        return {"behind": 0 if free.is_set() else 9}

    yield Script(session, {2: backlog}), free.set
    free.set()


def test_the_montage_waits_with_the_beam_off_until_the_processing_has_caught_up(
    lab: Lab, session: Session, slow_processing, caplog
):
    gate, let_go = slow_processing
    session.interrupt(
        take(lab, gate, max_behind=3),
        lambda: len(session.events()) == 2 and lab.text("SCOPE:Blank_RBV") == "On",
        let_go,
    )
    check_documents(session.documents)
    waited = [event["tile_waited"] for event in session.events()]
    assert waited[2] > 0
    assert [seconds for seconds in waited if seconds] == [waited[2]]
    assert "waiting: 9 tiles are taken but not judged; at most 3 may be" in caplog.text
    means = [event["camera_stats1_mean_value"] for event in session.events()]
    assert min(means) > 500, "and the beam was on again"


def test_it_does_not_wait_for_ever(lab: Lab, session: Session, monkeypatch, caplog):
    monkeypatch.setattr(steering, "BACKLOG_TIMEOUT", 0.4)
    session(take(lab, Always({"behind": 9}), max_behind=3))
    waited = [event["tile_waited"] for event in session.events()]
    assert waited == pytest.approx([0, 0.4, *[0] * 7]), "once; then it knows that it is no use"
    assert "going on all the same" in caplog.text
    assert session.one("stop")["exit_status"] == "success"


def test_a_backlog_within_the_limit_costs_nothing(lab: Lab, session: Session):
    session(take(lab, Always({"behind": 3}), TWO_BY_TWO, max_behind=3))
    assert {event["tile_waited"] for event in session.events()} == {0.0}


def test_stop_now_ends_the_waiting(lab: Lab, session: Session):
    answers = [{"behind": 9}, {"behind": 9}, {"decision": "stop_now", "reason": "dead"}]
    gate = Script(session, {2: lambda: answers.pop(0)})
    session(take(lab, gate, max_behind=3))
    assert order(session) == [0, 1]
    assert session.one("stop")["reason"].endswith("dead")
    assert lab.is_safe()


# --- gates that fail


def broken() -> Any:
    raise ConnectionError("no processor")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (broken, "gave no advice (ConnectionError: no processor); the montage goes on"),
        (None, "gave no advice (TypeError: it said None; an advice is a mapping)"),
        ({"decision": "stop"}, "it must be one of good, retake, stop_at_end, stop_now"),
        ({"retake": [99, 0]}, "names tiles [99]; there are 0 to 3"),
    ],
    ids=["raises", "none", "decision", "tiles"],
)
def test_a_gate_that_fails_does_not_cost_the_montage(
    lab: Lab, session: Session, caplog, said, complaint: str
):
    session(take(lab, Always(said), TWO_BY_TWO, retakes=0))
    assert order(session) == [0, 1, 2, 3]
    assert session.one("stop")["exit_status"] == "success"
    assert caplog.text.count(complaint) == 1, "once, not after each tile"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "an advice is a mapping"),
        ({"decision": "maybe"}, "decision is 'maybe'"),
        ({"retake": 3}, "not iterable"),
        ({"retake": [1.5]}, "retake has 1.5, which is no whole number"),
        ({"retake": [True]}, "retake has True"),
        ({"retake": [-1]}, "retake has -1"),
        ({"behind": -1}, "behind has -1"),
        ({"behind": "many"}, "behind has 'many'"),
    ],
)
def test_advice_that_cannot_be_understood_says_why(said, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        Advice.from_mapping(said)


def test_what_a_gate_leaves_out_has_its_default_and_what_it_adds_is_passed_over():
    assert Advice.from_mapping({}) == Advice("good", "", (), False, 0)
    said = {"decision": "retake", "retake": [3, 1], "mood": "fair", "behind": 2}
    assert Advice.from_mapping(said) == Advice("retake", "", (3, 1), False, 2)


def test_a_gate_that_hangs_costs_half_a_second_once(
    lab: Lab, session: Session, monkeypatch, caplog
):
    never = threading.Event()

    class Hanging:
        asked = 0

        def advice(self, raw_uid: str) -> dict[str, Any]:
            self.asked += 1
            never.wait(60)
            return {}

        def failed(self, raw_uid: str, timeout: float) -> list[int]:
            never.wait(60)
            return [0]

    monkeypatch.setattr(gate_module, "GATE_TIMEOUT", 0.2)
    monkeypatch.setattr(gate_module, "_GRACE", 0.0)
    sleeps = []
    session.RE.msg_hook = lambda message: (
        sleeps.append(message.args[0]) if message.command == "sleep" else None
    )
    gate = Hanging()
    try:
        session(take(lab, gate))
    finally:
        never.set()
    assert order(session) == list(range(9))
    assert gate.asked == 1, "no second question while the first is open"
    assert sum(sleeps) == pytest.approx(gate_module.ADVICE_TIMEOUT + 0.2, abs=0.1)
    assert "gave no advice within 0.5 s" in caplog.text
    assert "did not judge run" in caplog.text


def test_late_advice_is_heard_when_it_comes(lab: Lab, session: Session, monkeypatch):
    monkeypatch.setattr(gate_module, "ADVICE_TIMEOUT", 0.05)
    taken_five = threading.Event()

    def late() -> dict[str, Any]:
        taken_five.wait(60)
        return {"decision": "stop_now", "reason": "seen too late"}

    session.RE.subscribe(lambda *_: len(session.events()) >= 5 and taken_five.set())
    result = session(take(lab, Script(session, {2: late})))
    assert (result.stop, result.reason) == ("now", "seen too late")
    assert 5 <= result.tiles < 9


def test_a_montage_with_a_gate_can_be_looked_at_without_running_it(lab: Lab):
    class Silent:
        def advice(self, raw_uid: str) -> dict[str, Any]:
            raise AssertionError("nobody is to be asked")

        failed = advice

    text = StringIO()
    with redirect_stdout(text):
        summarize_plan(take(lab, Silent()))
    assert text.getvalue().count("stage_x ->") == 9


# --- pauses and ends in between


class Moments:
    """The moments at which a steered montage may be interrupted: a gate, and when it is there."""

    def __init__(self, lab: Lab, session: Session) -> None:
        self.lab, self.session = lab, session
        self.asked, self.interrupted = threading.Event(), threading.Event()
        session.RE.state_hook = lambda new, old: new != "running" and self.interrupted.set()

    def retake(self) -> tuple[Any, Callable[[], bool]]:
        gate = Judge(self.session, {1: 1})
        return gate, lambda: len(self.session.events()) == 3 and self.lab.camera.cam.acquire.get()

    def refocus(self) -> tuple[Any, Callable[[], bool]]:
        gate = Script(self.session, {3: {"refocus": True}})
        return gate, lambda: len(self.session.events("focus")) == 2

    def waiting(self) -> tuple[Any, Callable[[], bool]]:
        answers = [{"behind": 99}] * 4
        gate = Script(self.session, {3: lambda: answers.pop() if answers else {}})
        return gate, lambda: len(answers) <= 2

    def advice(self) -> tuple[Any, Callable[[], bool]]:
        def think() -> dict[str, Any]:
            self.asked.set()
            self.interrupted.wait(0.4)
            return {"decision": "retake", "retake": [1]}

        return Script(self.session, {3: think}), self.asked.is_set

    def judging(self) -> tuple[Any, Callable[[], bool]]:
        gate = Script(self.session, {}, failed=[[1]])
        ask = gate.failed

        def failed(raw_uid: str, timeout: float) -> list[int]:
            if not self.asked.is_set():
                self.asked.set()
                assert self.interrupted.wait(30)
            return ask(raw_uid, timeout)

        gate.failed = failed
        return gate, self.asked.is_set


MOMENTS = {  # and the tiles that are taken, if the montage goes on
    "retake": [0, 1, 2, 1, *range(3, 9)],
    "refocus": [*range(9)],
    "waiting": [*range(9)],
    "advice": [0, 1, 2, 1, *range(3, 9)],
    "judging": [*range(9), 1],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_pause_anywhere_changes_nothing(lab: Lab, session: Session, moment: str):
    lab.camera.cam.acquire_time.set(0.1).wait(10)
    gate, when = getattr(Moments(lab, session), moment)()
    session.interrupt(take(lab, gate), when)
    assert session.RE.state == "paused"
    assert lab.text("SCOPE:Blank_RBV") == "On"
    session.RE.resume()
    check_documents(session.documents)
    assert order(session) == MOMENTS[moment]
    attempts = takes(session)
    assert len(set(attempts)) == len(attempts), "nothing is recorded twice"
    assert min(event["camera_stats1_mean_value"] for event in session.events()) > 500
    session.frames()
    assert session.one("stop")["exit_status"] == "success"
    assert lab.is_safe()


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_abort_anywhere_leaves_the_microscope_safe(lab: Lab, session: Session, moment: str):
    lab.camera.cam.acquire_time.set(0.1).wait(10)
    gate, when = getattr(Moments(lab, session), moment)()
    session.interrupt(take(lab, gate), when, session.RE.abort)
    wait_until(lab.is_safe, 10, "the safe state")
    check_documents(session.documents)
    stop = session.one("stop")
    assert stop["exit_status"] == "abort"
    assert "quality gate" not in stop["reason"]
    session.frames()
