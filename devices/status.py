"""Statuses that say what they waited for.

A stock status that fails prints as its own repr; these print as a sentence to act on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ophyd.status import DeviceStatus, MoveStatus, Status, StatusBase
from ophyd.utils import InvalidState, StatusTimeoutError


class Outcome(StatusBase):
    """Mixin for a status whose time-out and whose text are sentences.

    Parameters
    ----------
    explain : callable
        Called with no argument when time is up; returns what was expected, what was found and
        what to do.
    """

    def __init__(self, *args: Any, explain: Callable[[], str], **kwargs: Any) -> None:
        self._explain = explain
        super().__init__(*args, **kwargs)

    def _settled(self) -> None:
        """Turn ophyd's bare time-out into one with an explanation."""
        super()._settled()
        if isinstance(getattr(self, "_exception", None), StatusTimeoutError):
            self._exception: Exception | None = TimeoutError(
                f"{self._explanation()} [waited {self.timeout:.3g} s]"
            )

    def _explanation(self) -> str:
        try:
            return self._explain()
        except Exception as error:  # such as an IOC that is gone, of which it wanted to know more
            return f"there was no answer, and now: {error}"

    def __str__(self) -> str:
        # bluesky's FailedStatus and the run's stop document show a status by its text.
        if self.done and not self.success:
            return str(self.exception(timeout=0))
        return f"{type(self).__name__}(done={self.done}, success={self.success})"

    __repr__ = __str__


class DeviceOutcome(Outcome, DeviceStatus):
    """The outcome of an action of a device, such as an exposure."""


class MoveOutcome(Outcome, MoveStatus):
    """The outcome of a move, with what a progress bar needs."""


class SettingOutcome(Outcome, StatusBase):
    """The outcome of writing a setting."""


def finished(device: Any = None) -> Status:
    """Give the status of an action that is over at once."""
    status = Status(device)
    status.set_finished()
    return status


def finish(outcome: StatusBase | None, error: Exception | None) -> None:
    """Finish a status that may be none, or over already; with an error if there is one."""
    if outcome is None or outcome.done:
        return
    with suppress(InvalidState):  # another thread has finished it since
        if error is None:
            outcome.set_finished()
        else:
            outcome.set_exception(error)
