"""The plan worker: a process with the one RunEngine, which runs what the server orders.

It reports the RunEngine's state as it changes; the server shows that and makes up none of its own.
"""

from __future__ import annotations

import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bluesky import Msg
from bluesky.utils import RunEngineInterrupted

from services.logs import FORMAT
from services.runtime import load_joined
from services.supervisor.link import Message, WorkerEnd
from services.supervisor.progress import Progress
from services.supervisor.worker_parts import WorkerParts

log = logging.getLogger(__name__)

STATES = {
    "idle": "idle",
    "running": "running",
    "pausing": "running",
    "suspending": "suspended",
    "paused": "paused",
    "stopping": "aborting",
    "aborting": "aborting",
    "halting": "aborting",
    "panicked": "fault",
}
CHECK_PERIOD = 0.005  # s between looks whether the RunEngine has come so far
PAUSE_PATIENCE = 60.0  # s for a plan to come to where it can be paused
FRAMES = "frames/%Y/%m/%d"


class PlanWorker:
    """Runs requests one after the other, on the thread that calls `run`.

    Parameters
    ----------
    link : WorkerEnd
    parts : WorkerParts
    """

    def __init__(self, link: WorkerEnd, parts: WorkerParts) -> None:
        self._link, self._parts, self._RE = link, parts, parts.RE
        self._jobs: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._controls: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._decisions: queue.SimpleQueue[Message] = queue.SimpleQueue()  # while paused
        self._deciding = threading.Event()  # whether one is waited for
        self._job = ""
        self._uids: list[str] = []
        self._ended_by = ""  # why the request of now was ended from outside
        self._end_when_paused = ""
        self._progress = Progress(link.report)
        parts.RE.state_hook = self._state_changed  # type: ignore[assignment]
        parts.RE.msg_hook = self._message_passed  # type: ignore[assignment]
        self._RE.subscribe(self._document)

    # On the main thread

    def run(self) -> None:
        """Run what is ordered until the server says quit or is gone, or the RunEngine is broken."""
        for target in (self._listen, self._control):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()
        while self._RE.state != "panicked" and (job := self._jobs.get()) is not None:
            self._run_job(job)

    def quit(self) -> None:
        """End `run`, and what runs before."""
        self._controls.put({"kind": "abort", "reason": "the plan worker was asked to end"})
        self._jobs.put(None)

    def _run_job(self, job: Message) -> None:
        self._uids, self._end_when_paused = [], ""
        self._link.report("state", state="running")  # making a plan may take its time
        outcome, message, harmless = "done", "", False
        try:
            self._parts.reach()
            with self._writing_to(job.get("directory")):
                entry = self._parts.registry.get(job["function"], "plan")
                plan = entry.plan_of(job["arguments"], self._parts.resources, md=job["md"])
                message = _words_of(self._through(plan))
        except RunEngineInterrupted:
            outcome, message = "aborted", self._ended_by or "the RunEngine was interrupted"
        except BaseException as error:
            log.exception("request %s failed", job["id"])
            outcome, message = "failed", _words_of_error(error)
            if self._ended_by:
                outcome, message = "aborted", f"{self._ended_by}; then {message}"
            # What is refused at the door has touched nothing: the next request may follow.
            harmless = not self._uids and isinstance(error, ValueError | TypeError)
        self._job = ""
        self._progress.end()
        self._link.report("state", state=STATES[str(self._RE.state)])
        self._link.report(
            "ended", id=job["id"], outcome=outcome, message=message, harmless=harmless
        )

    def _through(self, plan: Any) -> Any:
        """Take a plan to its end, also through pauses; give what it returns."""
        if self._ended_by:
            plan.close()
            raise RunEngineInterrupted(self._ended_by)
        go: Callable[[], Any] = partial(self._RE, plan)
        while True:
            try:
                result = go()
            except RunEngineInterrupted:
                if self._RE.state != "paused":
                    raise
            else:
                return getattr(result, "plan_result", None)
            decision = self._decide()
            if decision["kind"] == "resume":
                go = self._RE.resume
                continue
            self._ended_by = decision["reason"]
            if decision["kind"] == "halt":
                self._RE.halt()
            else:
                self._RE.abort(reason=decision["reason"])
            raise RunEngineInterrupted(decision["reason"])

    def _decide(self) -> Message:
        """Wait, paused, for what is to be done next."""
        if self._end_when_paused:
            return {"kind": "abort", "reason": self._end_when_paused}
        self._deciding.set()
        return self._decisions.get()

    @contextmanager
    def _writing_to(self, directory: str | None) -> Iterator[None]:
        """Have the cameras write below a folder of their own while a request runs."""
        if not directory:
            yield
            return
        template = str(self._parts.config.data.folder.absolute() / directory / FRAMES)
        devices = self._parts.resources.devices.values()
        files = [device.hdf1 for device in devices if hasattr(device, "hdf1")]
        before = [one.write_path_template for one in files]
        for one in files:
            one.write_path_template = template
        try:
            yield
        finally:
            for one, usual in zip(files, before, strict=True):
                one.write_path_template = usual

    # On the RunEngine's thread

    def _state_changed(self, new: Any, old: Any) -> None:
        self._link.report("state", state=STATES[str(new)])

    def _message_passed(self, msg: Msg) -> None:
        # The RunEngine has no state of its own for being suspended.
        if msg.command == "_start_suspender":
            self._link.report("state", state="suspended")
            self._link.report("message", text=f"suspended: {msg.args[2] or 'no reason given'}")
        elif msg.command == "_resume_from_suspender":
            self._link.report("state", state=STATES[str(self._RE.state)])
            self._link.report("message", text="no longer suspended")

    def _document(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self._uids.append(doc["uid"])
            self._link.report("run", id=self._job, uid=doc["uid"])
        self._progress(name, doc)

    # On threads of their own

    def _listen(self) -> None:
        for order in self._link.orders():
            if order["kind"] == "run":
                self._job, self._ended_by = order["id"], ""  # what follows may be to end it
                self._jobs.put(order)
            elif order["kind"] == "ping":
                # Answered by the RunEngine's own loop: a device that blocks it is a hang.
                number = order["number"]
                self._RE.loop.call_soon_threadsafe(
                    lambda number=number: self._link.report("pong", number=number)
                )
            elif order["kind"] == "quit":
                self.quit()
            else:
                self._controls.put(order)
        self.quit()  # the server is gone

    def _control(self) -> None:
        while True:
            order = self._controls.get()
            try:
                self._obey(order)
            except Exception as error:  # such as: it was over just before
                log.warning("%s: %s", order["kind"], error)
                self._link.report("message", text=f"{order['kind']}: {error}")

    def _obey(self, order: Message) -> None:
        kind, reason = order["kind"], order.get("reason", "")
        if not self._job:
            return
        if kind in {"abort", "halt"}:
            self._ended_by = self._ended_by or reason  # a plan that has not begun sees it
        if not self._wait(lambda: not self._RE.state.is_idle):
            return
        # Paused it is once the main thread waits for a decision, and no longer once it has one.
        self._wait(lambda: self._RE.state != "paused" or self._deciding.is_set())
        if self._deciding.is_set():
            self._decide_by(order)
        elif kind == "abort":
            self._RE.abort(reason=reason)
        elif kind == "halt":
            self._RE.halt()
        elif kind == "pause":
            # Where a plan has no checkpoint, the RunEngine would end it; but abort need not wait.
            self._wait(lambda: self._RE.resumable or not self._controls.empty())
            if self._RE.resumable:
                self._RE.request_pause()
        elif kind == "stop_after_tile":
            self._end_when_paused = reason
            self._RE.request_pause(defer=True)

    def _decide_by(self, order: Message) -> None:
        """Let a paused plan go on or end, as ordered."""
        if order["kind"] != "pause":
            self._deciding.clear()
            self._decisions.put(order)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until the RunEngine has come so far; false if the request ended before."""
        deadline = time.monotonic() + PAUSE_PATIENCE
        while self._job and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(CHECK_PERIOD)
        return False


def _words_of(result: Any) -> str:
    """Sum up what a plan returned, in a few words."""
    if isinstance(result, int | float):
        return f"{result:.4g}"
    tiles = getattr(result, "tiles", None)
    if tiles is None:
        return ""
    words = [f"{tiles} tiles"]
    words += [f"{result.retaken} retaken"] if result.retaken else []
    words += [f"{len(result.failed)} failed"] if result.failed else []
    words += [f"{len(result.missing)} missing"] if result.missing else []
    if result.stop:
        words.append(f"the quality gate: {result.reason}")
    return ", ".join(words)


def _words_of_error(error: BaseException) -> str:
    notes = "; ".join(getattr(error, "__notes__", ()))
    words = f"{type(error).__name__}: {error}"
    return f"{words} ({notes})" if notes else words


def main() -> None:
    """Run ``python -m services.supervisor.worker SOCKET [SITE FILE]``."""
    site = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    config = load_joined(site).config
    logging.basicConfig(level=config.log.level, format=FORMAT)
    link, parts = WorkerEnd(int(sys.argv[1])), WorkerParts(config)
    worker = PlanWorker(link, parts)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.quit())
    link.report("ready", problems=parts.problems)
    try:
        worker.run()
    finally:
        parts.close()


if __name__ == "__main__":
    main()
