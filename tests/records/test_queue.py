"""The queue of requests: what may be done to a request in each state, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from records import (
    DuplicateIdError,
    QueueFullError,
    RequestQueue,
    StateError,
    UnknownRequestError,
    places,
)


def ids(requests) -> list[str]:
    return [request.id for request in requests]


@pytest.fixture
def abc(queue, new):
    """Three requests in the queue."""
    queue.add(*(new(id, batch="letters") for id in "abc"))
    return queue


# Adding


def test_a_request_comes_back_as_it_was_given(queue, new):
    given = new(
        "a/1 µ",
        {
            "region": [[0, 0.5], [1e-9, -2]],
            "name": "Hütte 試料 🔬",
            "none": None,
            "deep": {"x": True},
        },
        function="fly_montage",
        priority=-3,
        batch="b",
        proposal="2030-17",
        directory="/data/2030-17",
        held=True,
    )
    before = datetime.now(UTC)
    (added,) = queue.add(given)
    assert {name: getattr(added, name) for name in vars(given)} == vars(given)
    assert (added.state, added.position, added.message) == ("queued", 0, "")
    assert (added.started, added.finished, added.worker) == (None, None, None)
    assert added.run_uids == ()
    assert before <= added.submitted <= datetime.now(UTC)
    assert added.submitted.tzinfo == UTC
    assert queue.get("a/1 µ") == queue.queued()[0] == added


def test_large_arguments_come_back(queue, new):
    arguments = {"text": "µ\n" * 1_000_000, "numbers": list(range(100_000))}
    queue.add(new("a", arguments))
    assert queue.claim("w").arguments == arguments


def test_what_is_given_is_copied(queue, new):
    arguments = {"region": (1, 2)}
    (added,) = queue.add(new("a", arguments))
    arguments["region"] = "changed"
    assert queue.get("a").arguments == added.arguments == {"region": [1, 2]}


def test_an_id_is_used_once_for_ever(queue, new):
    queue.add(new("a"), new("b"))
    queue.finish(queue.claim("w").id, "done", "")
    queue.remove("b")
    for old in "ab":
        with pytest.raises(DuplicateIdError, match=f"'{old}'"):
            queue.add(new(old))


def test_an_id_is_used_once_over_all_queues(abc, engine, new):
    with pytest.raises(DuplicateIdError):
        RequestQueue(engine, "second").add(new("a"))


def test_an_id_that_comes_into_another_queue_meanwhile_is_refused(abc, engine, new, monkeypatch):
    monkeypatch.setattr("records.queue._known", lambda *_: set())  # as seen a moment before
    with pytest.raises(DuplicateIdError):
        RequestQueue(engine, "second").add(new("x"), new("a"))
    assert abc.get("a").state == "queued"
    assert RequestQueue(engine, "second").count() == 0


def test_a_batch_is_added_whole_or_not_at_all(abc, new):
    revision = abc.revision
    with pytest.raises(DuplicateIdError, match="found 'a', 'c'"):
        abc.add(new("x"), new("a"), new("y"), new("c"))
    with pytest.raises(DuplicateIdError, match="found 'x'"):
        abc.add(new("x"), new("x"))
    with pytest.raises(QueueFullError, match="at most 4 .* found 3 and 2 more"):
        abc.add(new("x"), new("y"), limit=4)
    with pytest.raises(ValueError, match="priority"):
        abc.add(new("x"), new("y", priority=0.5))
    assert ids(abc.queued()) == ["a", "b", "c"]
    assert abc.revision == revision


def test_the_limit_counts_what_is_queued_only(abc, new):
    abc.claim("w")
    assert ids(abc.add(new("x"), limit=3)) == ["x"]


def test_a_parent_is_known_or_given_before(abc, new):
    abc.add(new("d", parent="a"), new("e", parent="d"))
    assert abc.get("e").parent == "d"
    with pytest.raises(UnknownRequestError, match="'f': its parent 'g' is unknown"):
        abc.add(new("f", parent="g"), new("g"))


def test_nothing_is_added_by_nothing(queue):
    assert queue.add() == ()
    assert queue.revision == 0


HALF_A_PAIR = "\ud800"


@pytest.mark.parametrize("field", ["arguments.name", "host"])
def test_what_cannot_be_stored_is_refused(queue, new, field):
    wrong = {"host": "\0"} if field == "host" else {"arguments": {"name": HALF_A_PAIR}}
    with pytest.raises(ValueError, match=rf"^{field}: "):
        queue.add(new("a", **wrong))
    assert queue.count() == 0


# Running


def test_a_request_runs_and_is_done(abc):
    claimed = abc.claim("scope-1")
    assert (claimed.id, claimed.state, claimed.worker) == ("a", "running", "scope-1")
    assert claimed.position is None
    assert abc.running() == (claimed,)
    assert abc.get("b").position == 0

    abc.note("a", message="tile 3 of 9", run_uid="run-1")
    noted = abc.note("a", run_uid="run-1")
    assert (noted.message, noted.run_uids) == ("tile 3 of 9", ("run-1",))

    done = abc.finish("a", "done", "all nine tiles", ["run-1", "run-2"])
    assert done == abc.get("a")
    assert (done.state, done.message, done.run_uids) == (
        "done",
        "all nine tiles",
        ("run-1", "run-2"),
    )
    assert done.submitted <= done.started <= done.finished
    assert abc.running() == ()
    steps = abc.transitions("a")
    assert [(step.old, step.new) for step in steps] == [
        (None, "queued"), ("queued", "running"), ("running", "done")
    ]  # fmt: skip
    assert [step.time for step in steps] == [done.submitted, done.started, done.finished]
    assert {step.request for step in steps} == {"a"}
    assert steps[-1].message == "all nine tiles"


def test_the_highest_priority_runs_first(queue, new):
    queue.add(new("low", priority=-1), new("a"), new("high", priority=1), new("b"))
    order = ["high", "a", "b", "low"]
    assert ids(queue.queued()) == order
    assert [queue.claim("w").id for _ in range(4)] == order
    assert queue.claim("w") is None


@pytest.mark.parametrize("state", ["done", "failed", "aborted", "interrupted"])
def test_a_request_finishes_in_any_of_these_states_and_once(abc, state):
    abc.claim("w")
    assert abc.finish("a", state, "").state == state
    with pytest.raises(StateError, match=f"'a': expected it to be running, found it {state}"):
        abc.finish("a", "done", "")


@pytest.mark.parametrize("state", ["queued", "running", "removed", "gone"])
def test_a_request_cannot_finish_in_another_state(abc, state):
    abc.claim("w")
    with pytest.raises(ValueError, match=f"found '{state}'"):
        abc.finish("a", state, "")


def test_what_does_not_run_cannot_be_noted_or_finished(abc):
    for act in (lambda: abc.note("a", message="x"), lambda: abc.finish("a", "done", "")):
        with pytest.raises(StateError, match="expected it to be running, found it queued"):
            act()


def test_an_outcome_is_not_lost_by_a_letter_of_its_message(abc):
    abc.claim("w")
    abc.note("a", message="a\0b")
    assert abc.get("a").message == "a\N{REPLACEMENT CHARACTER}b"
    abc.finish("a", "failed", f"\0 {HALF_A_PAIR}")
    assert abc.get("a").message == "\N{REPLACEMENT CHARACTER} ?"


def test_what_ran_when_its_process_ended_is_interrupted(abc):
    abc.claim("one")
    abc.claim("two")
    assert ids(abc.reconcile("one", "its server was killed")) == ["a"]
    assert (abc.get("a").state, abc.get("a").message) == ("interrupted", "its server was killed")
    assert ids(abc.reconcile()) == ["b"]
    revision = abc.revision
    assert abc.reconcile() == ()
    assert abc.revision == revision
    assert ids(abc.queued()) == ["c"]


def test_threads_share_a_queue(queue, new):
    queue.add(*(new(f"r{number}") for number in range(40)))
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(queue.claim, [f"worker-{number}" for number in range(40)]))
    assert sorted(ids(claimed)) == sorted(f"r{number}" for number in range(40))


# Changing what is queued


def test_what_is_queued_can_be_edited(abc):
    edited = abc.edit("b", arguments={"x": 1}, proposal="p", directory="/d")
    assert (edited.arguments, edited.proposal, edited.directory) == ({"x": 1}, "p", "/d")
    assert edited == abc.get("b")
    assert ids(abc.queued()) == ["a", "b", "c"]
    assert abc.edit("b", priority=0).position == 1, "the same priority moves nothing"
    assert abc.edit("b", priority=1).position == 0
    with pytest.raises(ValueError, match=r"^arguments\.x: "):
        abc.edit("b", arguments={"x": "\0"})
    with pytest.raises(ValueError, match="^directory: "):
        abc.edit("b", directory="\0")


@pytest.mark.parametrize(
    ("move", "order"),
    [
        ({"to": "first"}, "cab"),
        ({"to": "up"}, "acb"),
        ({"to": "last"}, "abc"),
        ({"to": "down"}, "abc"),
        ({"before": "a"}, "cab"),
        ({"after": "a"}, "acb"),
        ({"before": "c"}, "abc"),
    ],
)
def test_a_request_is_moved(abc, move, order):
    assert abc.move("c", **move).position == order.index("c")
    assert "".join(ids(abc.queued())) == order


def test_a_move_to_another_priority_takes_it_over(abc, new):
    abc.add(new("x", priority=5), new("y", priority=5))
    assert abc.move("c", before="y").priority == 5
    assert ids(abc.queued()) == ["x", "c", "y", "a", "b"]


def test_moves_never_run_out_of_places(abc, monkeypatch):
    monkeypatch.setattr(places, "GAP", 2)
    for _ in range(10):
        abc.move("a", after="b")
        assert ids(abc.queued()) == ["b", "a", "c"]
        abc.move("a", before="b")
        abc.move("c", after="a")
        assert ids(abc.queued()) == ["a", "c", "b"]
        abc.move("b", before="c")


@pytest.mark.parametrize("move", [{}, {"to": "up", "before": "a"}, {"to": "somewhere"}])
def test_a_move_says_one_place(abc, move):
    with pytest.raises(ValueError, match="expected one of"):
        abc.move("b", **move)


def test_a_removed_request_is_history(abc):
    removed = abc.remove("b", "a mistake")
    assert (removed.state, removed.message) == ("removed", "a mistake")
    assert removed.finished is not None
    assert ids(abc.queued()) == ["a", "c"]
    assert ids(abc.history()) == ["b"]


def test_a_batch_is_held_released_and_removed(abc, new):
    abc.add(new("x"))
    abc.claim("w")
    assert ids(abc.hold_batch("letters")) == ["b", "c"]
    assert [request.held for request in abc.queued()] == [True, True, False]
    assert ids(abc.release_batch("letters")) == ["b", "c"]
    assert ids(abc.remove_batch("letters", "enough")) == ["b", "c"]
    assert abc.remove_batch("letters") == ()
    assert abc.get("a").state == "running"
    with pytest.raises(UnknownRequestError, match="batch 'digits' is unknown"):
        abc.remove_batch("digits")


def test_held_requests_are_passed_by(abc):
    assert abc.hold("a").held
    assert abc.claim("w").id == "b"
    assert not abc.release("a").held
    assert abc.claim("w").id == "a"


def test_a_held_queue_gives_nothing_out(abc):
    assert abc.is_held is None
    abc.hold_queue("the column is being baked")
    assert abc.is_held == "the column is being baked"
    assert abc.claim("w") is None
    assert abc.count() == 3
    abc.release_queue()
    assert abc.is_held is None
    assert abc.claim("w").id == "a"
    abc.hold_queue("")
    assert abc.is_held


@pytest.mark.parametrize(
    "act",
    [
        lambda queue, id: queue.edit(id, priority=1),
        lambda queue, id: queue.move(id, to="first"),
        lambda queue, id: queue.move("c", before=id),
        lambda queue, id: queue.remove(id),
        lambda queue, id: queue.hold(id),
        lambda queue, id: queue.release(id),
    ],
)
def test_only_what_is_queued_can_be_changed(abc, act):
    abc.claim("w")
    with pytest.raises(StateError, match="'a': expected it to be queued, found it running"):
        act(abc, "a")
    with pytest.raises(UnknownRequestError, match="'nobody' is unknown to the queue 'temline'"):
        act(abc, "nobody")


def test_a_request_of_another_queue_is_unknown(abc, engine):
    other = RequestQueue(engine, "second")
    with pytest.raises(UnknownRequestError):
        other.get("a")
    assert (other.count(), other.claim("w"), other.history()) == (0, None, ())


@pytest.mark.parametrize("id", ["a\0", HALF_A_PAIR])
def test_an_id_that_cannot_be_is_refused_alike(queue, id):
    with pytest.raises(ValueError, match="^id: "):
        queue.get(id)


# Reading


def test_the_first_of_the_queue_are_read(abc):
    assert ids(abc.queued(limit=2)) == ["a", "b"]


def test_history_is_read_in_pages_though_all_finished_at_once(queue, new, monkeypatch):
    queue.add(*(new(f"r{number}", batch="b") for number in range(7)))
    queue.remove_batch("b")
    pages, last = [], None
    while page := queue.history(3, before=last):
        pages.append(ids(page))
        last = page[-1].id
    assert pages == [["r6", "r5", "r4"], ["r3", "r2", "r1"], ["r0"]]


def test_history_is_read_from_a_time_on(abc):
    times = [abc.remove(id).finished for id in "abc"]
    assert ids(abc.history()) == ["c", "b", "a"]
    assert ids(abc.history(1)) == ["c"]
    assert ids(abc.history(before=times[1])) == ["a"]
    assert ids(abc.history(before=times[2] + timedelta(microseconds=1))) == ["c", "b", "a"]
    with pytest.raises(ValueError, match="^before: expected a time with its zone"):
        abc.history(before=datetime(2030, 1, 1))


def test_the_revision_counts_every_change_and_nothing_else(abc, new):
    def changes(act) -> bool:
        before = abc.revision
        act()
        return abc.revision > before

    assert changes(lambda: abc.add(new("d")))
    assert changes(lambda: abc.edit("a", priority=0, directory="/d"))
    assert not changes(lambda: abc.edit("a", directory="/d"))
    assert changes(lambda: abc.move("b", to="up"))
    assert not changes(lambda: abc.move("b", to="up"))
    assert changes(lambda: abc.hold("a"))
    assert not changes(lambda: abc.hold("a"))
    assert changes(lambda: abc.claim("w"))
    assert changes(lambda: abc.note("b", message="x"))
    assert not changes(lambda: abc.note("b", message="x"))
    assert changes(lambda: abc.finish("b", "done", ""))
    assert changes(lambda: abc.hold_queue("x"))
    assert not changes(lambda: abc.hold_queue("x"))
    assert not changes(lambda: abc.claim("w"))
    assert changes(lambda: abc.remove_batch("letters"))
    assert not changes(lambda: [abc.queued(), abc.history(), abc.get("a")])


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_nothing_reads_all_requests(abc, engine, new):
    statements = []

    def note(connection, cursor, statement, parameters, *_):
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        abc.add(new("d", parent="a", batch="letters"), limit=9)
        for act in (abc.get, abc.hold, abc.release, abc.transitions):
            act("a")
        abc.move("a", after="b")
        abc.move("a", to="first")
        abc.edit("a", priority=1)
        abc.finish(abc.claim("w").id, "done", "")
        abc.reconcile()
        abc.remove_batch("letters")
        abc.history(before="b")
    finally:
        event.remove(engine, "before_cursor_execute", note)

    with engine.connect() as connection:
        for statement, parameters in statements:
            if statement.split()[0] in {"SELECT", "UPDATE"}:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                steps = [row.detail for row in plan]
                slow = [step for step in steps if "SCAN" in step or "(queue=?)" in step]
                assert not slow, statement
