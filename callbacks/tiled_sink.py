"""Writes runs to Tiled without ever making the RunEngine wait, and keeps what Tiled did not take.

Every document goes to a journal on disk before Tiled is tried, so a dead server, or even a dead
process, loses nothing; `replay` writes kept journals later.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import httpx
from bluesky_tiled_plugins import TiledWriter
from event_model import NumpyEncoder
from tiled.client import from_uri

from callbacks.by_run import ByRun, Callback, events_of
from callbacks.tiled_arrays import ArraysAtOnce

logger = logging.getLogger(__name__)

BATCH_SIZE = 100  # events: a table grows on the web page while a run lasts, at 1 ms an event
PROBE_TIMEOUT = 3.0  # s; tiled's own client tries for 25 s to reach a server that is not there
JOURNAL_SUFFIX = ".jsonl"
DONE = "done"


class _Encoder(NumpyEncoder):
    """Encodes numpy values as plain ones, and what JSON has no form for as text."""

    def default(self, obj: object) -> Any:
        try:
            return super().default(obj)
        except TypeError:
            return str(obj)


@dataclass(eq=False)
class _Run:
    """A run on its way: its journal, and how it stands with Tiled."""

    uid: str
    path: Path
    journal: TextIO
    writer: TiledWriter | None = None
    failed: bool = False


_Line = tuple[_Run, str, str]


class TiledSink:
    """A callback that writes runs to Tiled; it never blocks and never raises.

    A call only puts the document into a queue. One thread writes it to the run's journal, another
    to Tiled by `bluesky_tiled_plugins.TiledWriter`, events in batches and arrays at once, and takes
    the journal away once the run is there as a whole. If Tiled does not answer, or fails during a
    run, that run's journal stays; at the next run it is tried anew. (`TiledWriter` has a backup of
    its own, but keeps it in memory until something fails, and cannot write numpy values.)

    Parameters
    ----------
    uri : str
        Address of the Tiled server, or of a catalogue in it.
    api_key : str or None
        Its key, if it wants one.
    backup_directory : Path or str
        Folder of the journals; made if it is missing.
    batch_size : int
        Events written at a time.
    """

    def __init__(
        self,
        uri: str,
        api_key: str | None,
        backup_directory: Path | str,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.uri = uri
        self.backup_directory = Path(backup_directory)
        self.backup_directory.mkdir(parents=True, exist_ok=True)
        self._api_key, self._batch_size = api_key, batch_size
        self._client: Any = None
        self._outage = False
        self._router = ByRun(self._factory)
        self._open: list[_Run] = []
        self._lines: list[_Line] = []  # of the document that is being routed

        self._inbox: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[list[_Line] | None] = queue.SimpleQueue()
        self._progress = threading.Condition()
        self._pending = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("tiled-journal", self._keep), ("tiled-writer", self._write))
        ]
        for thread in self._threads:
            thread.start()

    # On any thread

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document in; returns at once."""
        with self._progress:
            if self._closed:
                logger.warning("the Tiled sink is closed; a %s document is not written", name)
                return
            self._pending += 1
            self._inbox.put((name, doc))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was taken in is in Tiled, or kept.

        Parameters
        ----------
        timeout : float, optional
            In s; by default there is no limit.

        Returns
        -------
        bool
            False if the time was up before.
        """
        with self._progress:
            return self._progress.wait_for(lambda: not self._pending, timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """Write what was taken in, and stop the threads.

        Parameters
        ----------
        timeout : float
            In s. What is not in Tiled by then stays in the journals.

        Returns
        -------
        bool
            Whether all was written or kept in time.
        """
        deadline = time.monotonic() + timeout
        with self._progress:
            if not self._closed:
                self._inbox.put(None)
            self._closed = True
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # On the journal's thread

    def _keep(self) -> None:
        while (item := self._inbox.get()) is not None:
            try:
                self._router(*item)
            except Exception:
                logger.exception("a %s document could not be kept", item[0])
            lines, self._lines = self._lines, []
            self._outbox.put(lines)
        for run in self._open:
            run.journal.close()
        self._outbox.put(None)

    def _factory(self, start: dict[str, Any]) -> Callback:
        path = self.backup_directory / f"{start['uid']}{JOURNAL_SUFFIX}"
        try:
            journal = path.open("a", encoding="utf-8")
        except OSError as error:  # Tiled may still take the run
            logger.error(
                "run %s has no journal, it is lost if Tiled fails: %s", start["uid"], error
            )
            journal = open(os.devnull, "a", encoding="utf-8")  # noqa: SIM115
        else:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)  # `replay` leaves it alone
        run = _Run(start["uid"], path, journal)
        self._open.append(run)
        return partial(self._add, run)

    def _add(self, run: _Run, name: str, doc: dict[str, Any]) -> None:
        line = json.dumps({"name": name, "doc": doc}, cls=_Encoder)
        self._lines.append((run, name, line))
        run.journal.write(line + "\n")
        run.journal.flush()
        if name == "stop":
            self._open.remove(run)

    # On the writer's thread

    def _write(self) -> None:
        while (lines := self._outbox.get()) is not None:
            for run, name, line in lines:
                try:
                    self._write_line(run, name, line)
                except OSError as error:  # of the journal; Tiled's are dealt with
                    logger.error("the journal %s could not be taken away: %s", run.path, error)
            with self._progress:
                self._pending -= 1
                self._progress.notify_all()

    def _write_line(self, run: _Run, name: str, line: str) -> None:
        if not run.failed:
            try:
                if run.writer is None:
                    run.writer = TiledWriter(
                        self._connect(), normalizer=ArraysAtOnce, batch_size=self._batch_size
                    )
                run.writer(name, json.loads(line)["doc"])
            except Exception as error:
                run.failed = True
                self._client = None
                self._explain(run, error)
        if name == "stop":
            run.writer = None
            try:
                if not run.failed:
                    self._recover()
                    run.path.unlink(missing_ok=True)
            finally:
                run.journal.close()  # after that, `replay` may have it

    def _connect(self) -> Any:
        """Give a client, or raise soon if nobody answers."""
        if self._client is None:
            parts = urlsplit(self.uri)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), PROBE_TIMEOUT).close()
            self._client = from_uri(self.uri, api_key=self._api_key, show_progress=False)
        return self._client

    def _explain(self, run: _Run, error: Exception) -> None:
        """Say what happened and what to do: once an outage, but for each run that is refused."""
        absent = isinstance(error, (OSError, httpx.TransportError))
        if absent and self._outage:
            return
        self._outage = absent
        what = "does not answer" if absent else f"did not take run {run.uid}"
        logger.error(
            "Tiled at %s %s (%s: %s). Nothing is lost: the documents are kept in %s. "
            "When Tiled is back, `temline replay` writes them.",
            self.uri,
            what,
            type(error).__name__,
            error,
            self.backup_directory,
        )

    def _recover(self) -> None:
        if self._outage:
            self._outage = False
            logger.warning(
                "Tiled at %s answers again; `temline replay` writes what was kept in %s",
                self.uri,
                self.backup_directory,
            )


@dataclass(eq=False)
class ReplayReport:
    """What became of the kept runs.

    Attributes
    ----------
    written : list of str
        Uids of the runs that were written.
    skipped : list of str
        Of those that Tiled had as a whole already.
    in_use : list of str
        Of those that are being acquired right now.
    failed : dict of str to str
        Names of the files that could not be written, and why; they stay where they are.
    """

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = (
            f"{len(self.written)} written, {len(self.skipped)} in Tiled already, "
            f"{len(self.in_use)} still being acquired, {len(self.failed)} failed"
        )
        return "\n".join([counts, *(f"  {name}: {why}" for name, why in self.failed.items())])


def kept_runs(directory: Path | str) -> list[Path]:
    """Give the journals in a folder that `replay` would write, oldest first."""
    return sorted(Path(directory).glob(f"*{JOURNAL_SUFFIX}"), key=lambda path: path.stat().st_mtime)


def replay(directory: Path | str, client: Any) -> ReplayReport:
    """Write the runs that were kept to Tiled, and move their journals to the folder ``done``.

    It may be repeated, and interrupted: a run that Tiled has as a whole is skipped, one that it has
    in part is deleted there (files that it only refers to, such as the camera's, stay) and written
    anew. A run whose process died gets a stop document that says so.

    Parameters
    ----------
    directory : Path or str
        The sink's `backup_directory`.
    client : tiled.client.container.Container
        The catalogue to write to.

    Returns
    -------
    ReplayReport

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the sink's backup_directory")
    report = ReplayReport()
    for path in kept_runs(folder):
        with path.open(encoding="utf-8") as journal:
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report.in_use.append(path.stem)
                continue
            try:
                _replay_run(journal, client, report)
            except Exception as error:
                logger.debug("replay of %s failed", path, exc_info=True)
                report.failed[path.name] = f"{type(error).__name__}: {error}"
                continue
            (folder / DONE).mkdir(exist_ok=True)
            path.rename(folder / DONE / path.name)
    return report


def _replay_run(journal: TextIO, client: Any, report: ReplayReport) -> None:
    """Write one run, unless Tiled has it."""
    documents = list(_read_journal(journal))
    if not documents or documents[0][0] != "start":
        raise ValueError("the journal does not begin with a start document")
    uid = documents[0][1]["uid"]
    if documents[-1][0] != "stop":
        documents.append(("stop", _stop_of_dead_run(documents)))
    if uid in client:
        if client[uid].metadata.get("stop"):
            report.skipped.append(uid)
            return
        client.delete_contents(uid, recursive=True, external_only=False)
    writer = TiledWriter(client)
    for name, doc in documents:
        writer(name, doc)
    report.written.append(uid)


def _read_journal(journal: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the documents; a last line that a dying process cut off is left out."""
    lines = journal.read().split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            item = json.loads(line) if line else None
        except json.JSONDecodeError:
            if number < len(lines):
                raise
            return
        if item is not None:
            yield item["name"], item["doc"]


def _stop_of_dead_run(documents: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Make the stop document that a run lacks whose process died."""
    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    counts = dict.fromkeys(streams.values(), 0)
    last = documents[0][1]["time"]
    for name, doc in documents:
        if name in {"event", "event_page"}:
            for event in events_of(name, doc):
                counts[streams[doc["descriptor"]]] += 1
                last = max(last, event["time"])
    return {
        "uid": str(uuid.uuid4()),
        "time": last,
        "run_start": documents[0][1]["uid"],
        "exit_status": "abort",
        "reason": "the process that acquired it ended before the run did",
        "num_events": counts,
    }
