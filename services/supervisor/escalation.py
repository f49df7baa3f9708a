"""Sees immediate commands through: what is not obeyed in its time is followed by something harsher.

pause and resume → abort → halt → the plan worker is killed, and the hardware made safe without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from config.model import Deadlines

if TYPE_CHECKING:
    from services.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

Step = Literal["pause", "resume", "stop_after_request", "stop_after_tile", "abort", "halt", "kill"]

NEXT: Mapping[Step, Step] = {
    "pause": "abort",
    "resume": "abort",
    "stop_after_request": "stop_after_tile",
    "stop_after_tile": "abort",
    "abort": "halt",
    "halt": "kill",
}
HARSHNESS: Mapping[Step, int] = {
    "resume": 0,
    "pause": 0,
    "stop_after_request": 1,
    "stop_after_tile": 2,
    "abort": 3,
    "halt": 4,
    "kill": 5,
}


class Escalation:
    """The ladder, and where on it the request that runs is.

    Parameters
    ----------
    supervisor : Supervisor
    deadlines : Deadlines
        How long each step may take.
    """

    def __init__(self, supervisor: Supervisor, deadlines: Deadlines) -> None:
        self._supervisor, self._deadlines = supervisor, deadlines
        self._task: asyncio.Task[None] | None = None
        self._step: Step | None = None
        self._changed = asyncio.Event()

    def begin(self, step: Step, reason: str, deadline: float | None = None) -> str:
        """Have something done to the request that runs.

        Parameters
        ----------
        step : str
        reason : str
            Who wants it, and why; it is what the request's message will say.
        deadline : float, optional
            Seconds until the next harsher step; as configured, if it is left out.

        Returns
        -------
        str
            What is done about it, in words.
        """
        if not self._supervisor.busy:
            return "nothing runs"
        paused = self._supervisor.board.status.state == "paused" and self._step != "resume"
        if step == "pause" and paused:
            return "it is paused already"
        if step == "resume" and not paused:
            return "it is not paused"
        # Said again, it has no more time than it had.
        if self._step is not None and (
            HARSHNESS[step] < HARSHNESS[self._step] or (step == self._step and deadline is None)
        ):
            return f"{self._step} is under way already"
        self.cancel()
        self._task = asyncio.create_task(self._climb(step, reason, deadline), name="escalation")
        return f"{step} was ordered"

    def look(self) -> None:
        """Look again whether a step has come to its end."""
        self._changed.set()

    def cancel(self) -> None:
        """Leave the ladder."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._step = None

    async def _climb(self, step: Step, reason: str, deadline: float | None) -> None:
        request = self._supervisor.request

        def over() -> bool:
            return self._supervisor.request is not request

        while True:
            self._step = step
            self._send(step, reason)
            if step == "kill":
                break
            limit = deadline or getattr(self._deadlines, step)
            if await self._reached(step, over, limit):
                break
            harsher = NEXT[step]
            log.warning("%s took over %g s: %s follows", step, limit, harsher)
            reason = f"{reason}; {step} took over {limit:g} s"
            step, deadline = harsher, None
        self._step = self._task = None

    def _send(self, step: Step, reason: str) -> None:
        if step == "kill":
            self._supervisor.kill_worker(reason)
        elif step != "stop_after_request":  # for which the queue is held already
            self._supervisor.order(step, reason=reason)

    async def _reached(self, step: Step, over: Callable[[], bool], limit: float) -> bool:
        """Wait until a step has done what it should; false if that takes too long."""
        wanted = {"pause": "paused", "resume": "running"}.get(step)
        try:
            async with asyncio.timeout(limit):
                while not over() and self._supervisor.board.status.state != wanted:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
