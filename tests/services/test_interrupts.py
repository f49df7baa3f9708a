"""Ctrl-C, once and in quick succession, during work and during the clean-up."""

import contextlib
import os
import signal
import threading
import time

import pytest

from services.interrupts import Interrupts


def press(number: int = signal.SIGINT) -> None:
    """Send a signal and give the interpreter the chance to run the handler."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def test_one_press_interrupts():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            press()
        assert interrupts.asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_and_a_closed_terminal_are_alike(number):
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        press(number)


def test_five_presses_in_quick_succession_interrupt_once():
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            press()
        for _ in range(4):
            press()  # nothing is raised: the clean-up is under way


def test_a_late_press_interrupts_again(monkeypatch):
    monkeypatch.setattr("services.interrupts.REPEAT_AFTER", 0.05)
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            press()
        time.sleep(0.06)
        with pytest.raises(KeyboardInterrupt):
            press()


def test_nothing_interrupts_the_clean_up(monkeypatch):
    monkeypatch.setattr("services.interrupts.REPEAT_AFTER", 0.0)
    with Interrupts() as interrupts:
        interrupts.shield()
        press()
        interrupts.check()


def test_a_press_that_a_library_swallowed_is_found_at_the_next_step():
    with Interrupts() as interrupts:
        with contextlib.suppress(KeyboardInterrupt):
            press()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_a_press_calls_the_action_on_another_thread():
    called = threading.Event()
    where = []

    def action() -> None:
        where.append(threading.current_thread())
        called.set()

    with Interrupts() as interrupts:
        with interrupts.calling(action):
            press()
            assert called.wait(5)
        assert where[0] is not threading.current_thread()


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) is before
