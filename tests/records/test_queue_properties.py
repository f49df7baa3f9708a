"""Whatever is done to a queue, in whatever order, it stays what a plain list would be."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from records import NewRequest, RequestQueue, places

names = (f"queue{number}" for number in itertools.count())
priorities = st.integers(-1, 1)
picks = st.integers(0, 99)


class QueueAndList(RuleBasedStateMachine):
    """Does everything twice: to a queue, and to a list of ``[id, priority, held]``."""

    engine = None  # of the test

    @initialize(many=st.lists(priorities, max_size=8))
    def begin(self, many):
        self.queue = RequestQueue(self.engine, next(names))
        self.ids = (f"{self.queue.name}-{number}" for number in itertools.count())
        self.list: list[list] = []
        self.running: list[str] = []
        self.held = False
        self.state, self.revision = ((), (), False), 0
        self.add(many)

    @rule(many=st.lists(priorities, min_size=1, max_size=4))
    def add(self, many):
        new = [(next(self.ids), priority) for priority in many]
        self.queue.add(*(NewRequest(id, "f", {}, "c", "h", priority=p) for id, p in new))
        for id, priority in new:
            self._put_last([id, priority, False])

    def _put_last(self, item):
        self.list.append(item)
        self.list.sort(key=lambda one: -one[1])  # which keeps the order of equal ones

    @rule()
    def claim(self):
        found = self.queue.claim("worker")
        ready = [item for item in self.list if not item[2]]
        if self.held or not ready:
            assert found is None
        else:
            assert found.id == ready[0][0]
            self.list.remove(ready[0])
            self.running.append(found.id)

    @precondition(lambda self: self.running)
    @rule()
    def finish(self):
        self.queue.finish(self.running.pop(), "done", "")

    @precondition(lambda self: self.list)
    @rule(pick=picks)
    def remove(self, pick):
        item = self._pick(pick)
        self.queue.remove(item[0])
        self.list.remove(item)

    def _pick(self, number):
        return self.list[number % len(self.list)]

    @precondition(lambda self: self.list)
    @rule(pick=picks, held=st.booleans())
    def hold(self, pick, held):
        item = self._pick(pick)
        item[2] = held
        (self.queue.hold if held else self.queue.release)(item[0])

    @rule(held=st.booleans())
    def hold_queue(self, held):
        self.held = held
        if held:
            self.queue.hold_queue("for a test")
        else:
            self.queue.release_queue()

    @precondition(lambda self: self.list)
    @rule(pick=picks, priority=priorities)
    def edit(self, pick, priority):
        item = self._pick(pick)
        self.queue.edit(item[0], priority=priority)
        if priority != item[1]:
            self.list.remove(item)
            self._put_last([item[0], priority, item[2]])

    @precondition(lambda self: self.list)
    @rule(pick=picks, to=st.sampled_from(["first", "last", "up", "down"]))
    def move(self, pick, to):
        item = self._pick(pick)
        same = [one for one in self.list if one[1] == item[1]]
        start, old = self.list.index(same[0]), same.index(item)
        new = {"first": 0, "last": len(same) - 1, "up": max(old - 1, 0)}.get(to, old + 1)
        same.insert(new, same.pop(old))
        self.list[start : start + len(same)] = same
        self.queue.move(item[0], to=to)

    @precondition(lambda self: len(self.list) > 1)
    @rule(pick=picks, other=picks, side=st.sampled_from(["before", "after"]))
    def move_next_to(self, pick, other, side):
        item, target = self._pick(pick), self._pick(other)
        self.queue.move(item[0], **{side: target[0]})
        if item is not target:
            self.list.remove(item)
            item[1] = target[1]
            self.list.insert(self.list.index(target) + (side == "after"), item)

    @invariant()
    def they_agree(self):
        queued, running = self.queue.queued(), self.queue.running()
        assert [[one.id, one.priority, one.held] for one in queued] == self.list
        assert [one.position for one in queued] == list(range(len(self.list)))
        assert [one.id for one in running] == self.running
        state = (queued, running, self.held)
        revision = self.queue.revision
        assert (revision > self.revision) == (state != self.state), (
            "it counts changes, and only them"
        )
        self.state, self.revision = state, revision


def test_a_queue_is_a_list_that_lasts(engine, monkeypatch):
    monkeypatch.setattr(places, "GAP", 4)  # so that gaps are used up within a few moves
    machine = type("Machine", (QueueAndList,), {"engine": engine})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=20,
            deadline=None,
            phases=set(Phase) - {Phase.shrink, Phase.explain},  # they take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
