"""Items are begun within the window and finished in their order, however long each takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callbacks.in_order import InOrder


class Log:
    """Begins and finishes items by writing them down."""

    def __init__(self, window: int) -> None:
        self.begun: list[int] = []
        self.finished: list[tuple[int, str | None, Exception | None]] = []
        self.order: InOrder[int, str] = InOrder(self.begun.append, self._finish, window)

    def _finish(self, item: int, result: str | None, error: Exception | None) -> None:
        self.finished.append((item, result, error))


def test_nothing_begins_before_it_is_opened():
    log = Log(window=2)
    for item in range(3):
        log.order.add(item)
    assert log.begun == []
    assert len(log.order) == 3
    log.order.open()
    assert log.begun == [0, 1]


def test_a_slow_item_holds_the_results_of_those_behind_it():
    log = Log(window=3)
    log.order.open()
    for item in range(4):
        log.order.add(item)
    error = OSError("no frame")
    log.order.done(2, "two", None)
    log.order.done(1, None, error)
    assert log.finished == []
    assert log.begun == [0, 1, 2], "the window is full as long as the first is not done"
    log.order.done(0, "zero", None)
    assert log.finished == [(0, "zero", None), (1, None, error), (2, "two", None)]
    assert log.begun == [0, 1, 2, 3]
    assert len(log.order) == 1


def test_an_item_that_is_done_as_it_begins():
    finished: list[int] = []
    order: InOrder[int, str] = InOrder(
        lambda item: order.done(item, "", None), lambda item, *_: finished.append(item), 1
    )
    order.open()
    for item in range(5):
        order.add(item)
    assert finished == [0, 1, 2, 3, 4]
    assert len(order) == 0


@given(st.integers(1, 5), st.integers(1, 30), st.randoms(use_true_random=False))
def test_any_order_of_completion_gives_the_order_of_arrival(window, count, random):
    log = Log(window)
    log.order.open()
    for item in range(count):
        log.order.add(item)
    done: set[int] = set()
    while len(done) < count:
        item = random.choice([item for item in log.begun if item not in done])
        done.add(item)
        log.order.done(item, str(item), None)
        assert len(log.begun) - len(log.finished) <= window
    assert log.finished == [(item, str(item), None) for item in range(count)]
