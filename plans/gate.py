"""The quality gate of a montage: which tiles are to be taken again.

A plan knows it only by what it can be asked; who answers lives among the callbacks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Protocol, runtime_checkable

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

GATE_TIMEOUT = 120.0
"""Seconds that the gate may take to judge the tiles of a montage, once all are taken."""

_POLL = 0.05
_GRACE = 5.0

_log = logging.getLogger(__name__)


@runtime_checkable
class QualityGate(Protocol):
    """Judges the tiles of a montage."""

    def failed(self, raw_uid: str, timeout: float) -> Sequence[int]:
        """Wait until every tile taken so far is judged; give the indices of those that failed.

        Parameters
        ----------
        raw_uid : str
            Of the run that took the tiles.
        timeout : float
            Seconds to wait at most.

        Raises
        ------
        TimeoutError
            If not every tile was judged in time.
        """
        ...


def ask(gate: QualityGate, raw_uid: str, n_tiles: int) -> MsgGenerator[list[int]]:
    """Ask the gate, on a thread, so that the RunEngine can be paused and stopped meanwhile.

    A gate that fails is no reason to lose a montage that is on disk: it is logged, and no tile is
    taken again.

    Returns
    -------
    list of int
        Indices of tiles to take again, in order, each once.
    """
    answer: Future[Sequence[int]] = Future()
    Thread(target=_answer, args=(gate, raw_uid, answer), name="quality-gate", daemon=True).start()
    for _ in range(int((GATE_TIMEOUT + _GRACE) / _POLL)):
        if answer.done():
            break
        yield from bps.checkpoint()
        yield from bps.sleep(_POLL)
    try:
        failed = sorted({int(index) for index in answer.result(timeout=0)})
    except Exception as error:
        _log.error(
            "the quality gate did not judge run %s (%s: %s); no tile is taken again",
            raw_uid,
            type(error).__name__,
            error or f"no answer within {GATE_TIMEOUT:g} s",
        )
        return []
    unknown = [index for index in failed if not 0 <= index < n_tiles]
    if unknown:
        _log.error("the quality gate names tiles %s; there are 0 to %d", unknown, n_tiles - 1)
    return [index for index in failed if 0 <= index < n_tiles]


def _answer(gate: QualityGate, raw_uid: str, answer: Future[Sequence[int]]) -> None:
    try:
        answer.set_result(gate.failed(raw_uid, GATE_TIMEOUT))
    except BaseException as error:
        answer.set_exception(error)
