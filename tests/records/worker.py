"""Processes that work on a database: ``python -m tests.records.worker COMMAND URL [HOW MANY]``."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable

from sqlalchemy import event
from sqlalchemy.orm import Session

from records import NewRequest, RequestQueue, open_database


def say(words: str) -> None:
    os.write(1, f"{words}\n".encode())  # at once, so that lines of processes do not mix


def open_it(url: str, begin: Callable[[], object]) -> None:
    begin()
    open_database(url).dispose()
    say("opened")


def claim_all(url: str, begin: Callable[[], object]) -> None:
    """Claim until nothing is left; says each id."""
    queue = RequestQueue(open_database(url))
    begin()
    while request := queue.claim(f"worker-{os.getpid()}"):
        say(f"{request.id} {request.worker}")


def claim_and_stop(url: str) -> None:
    """Claim one, and run it for ever."""
    say(RequestQueue(open_database(url)).claim("dying").id)
    time.sleep(60)


def stop_amid_claim(url: str) -> None:
    """Stop when all of a claim is written, and nothing is committed."""

    def stop(*_: object) -> None:
        say("stopped")
        time.sleep(60)

    queue = RequestQueue(open_database(url))
    event.listen(Session, "after_flush_postexec", stop)
    queue.claim("dying")


def add_for_ever(url: str) -> None:
    """Add one after the other; says each id once it is accepted."""
    queue = RequestQueue(open_database(url))
    for number in itertools.count():
        queue.add(NewRequest(f"r{number}", "montage", {}, "anna", "console"))
        say(f"r{number}")


def run_many(command: Callable[..., None], url: str, many: int) -> int:
    """Run a command in processes that begin together; gives the worst exit code."""
    context = multiprocessing.get_context("fork")  # so that one process imports for all
    begin = context.Barrier(many).wait
    processes = [context.Process(target=command, args=(url, begin)) for _ in range(many)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode) for process in processes)


if __name__ == "__main__":
    command, (url, *many) = globals()[sys.argv[1]], sys.argv[2:]
    sys.exit(run_many(command, url, int(many[0])) if many else command(url))
