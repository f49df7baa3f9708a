"""The quality gate of a montage: what it can say, and how a plan asks it.

A plan knows it only by what it can be asked; who answers lives among the callbacks, or at a site.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from math import ceil
from numbers import Integral
from threading import Thread
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

Decision = Literal["good", "retake", "stop_at_end", "stop_now"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

ADVICE_TIMEOUT = 0.5
"""Seconds that the gate may take to advise; it is not to wait for anything."""

GATE_TIMEOUT = 120.0
"""Seconds that the gate may take to judge the tiles of a montage, once all are taken."""

_AT_ONCE = (
    0.002  # s; an answer that is ready comes within it, and the RunEngine may be held that long
)
_ADVICE_POLL = 0.01
_FAILED_POLL = 0.05
_GRACE = 5.0

_log = logging.getLogger(__name__)


@runtime_checkable
class QualityGate(Protocol):
    """Judges the tiles of a montage while they are taken.

    See Also
    --------
    docs/steering.md : how to write one.
    """

    def advice(self, raw_uid: str) -> Mapping[str, Any]:
        """Say what is to be done, by what is known now; asked after each tile.

        Parameters
        ----------
        raw_uid : str
            Of the run that takes the tiles.

        Returns
        -------
        mapping
            As the attributes of `Advice`; what is left out has its default.
        """
        ...

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


@dataclass(frozen=True)
class Advice:
    """What a gate says after a tile.

    Attributes
    ----------
    decision : {"good", "retake", "stop_at_end", "stop_now"}
        Go on; go on and take some tiles again; finish this montage, but start no other; end it.
    reason : str
        Why, for the log and the stop document.
    retake : tuple of int
        Tiles that fail as they were taken last, by index, of those that are judged.
    refocus : bool
        Whether to focus before the next tile.
    behind : int
        Tiles that are taken but not judged yet.
    """

    decision: Decision = "good"
    reason: str = ""
    retake: tuple[int, ...] = ()
    refocus: bool = False
    behind: int = 0

    @classmethod
    def from_mapping(cls, said: Mapping[str, Any]) -> Advice:
        """Read it from what a gate said; entries with other names are passed over.

        Raises
        ------
        TypeError, ValueError
            If it cannot be understood; the message says what was expected.
        """
        if not isinstance(said, Mapping):
            raise TypeError(f"it said {said!r}; an advice is a mapping")
        decision = said.get("decision", "good")
        if decision not in DECISIONS:
            raise ValueError(f"decision is {decision!r}; it must be one of {', '.join(DECISIONS)}")
        return cls(
            decision,
            str(said.get("reason", "")),
            tuple(_whole("retake", index) for index in said.get("retake", ())),
            bool(said.get("refocus", False)),
            _whole("behind", said.get("behind", 0)),
        )


GOOD = Advice()


class Consultation:
    """Asks a gate about one run.

    Each question is put on a thread of its own, so that a gate can neither hold the RunEngine nor
    end a montage: one that fails, hangs or cannot be understood is logged, and taken for content.

    Parameters
    ----------
    gate : QualityGate
    raw_uid : str
        Of the run.
    n_tiles : int
        Of the montage.
    """

    def __init__(self, gate: QualityGate, raw_uid: str, n_tiles: int) -> None:
        self._gate, self._uid, self._n_tiles = gate, raw_uid, n_tiles
        self._pending: Future[Any] | None = None
        self._complaints: set[str] = set()

    def advice(self) -> MsgGenerator[Advice]:
        """Ask what is to be done.

        Returns
        -------
        Advice
            Good, if there is none; that of a gate which was late comes with the next question.
        """
        patience = 0.0  # with a gate that has not even answered the last question
        if self._pending is None:
            self._pending = _on_a_thread(self._gate.advice, self._uid)
            patience = ADVICE_TIMEOUT
        yield from _await(self._pending, patience, _ADVICE_POLL)
        if not self._pending.done():
            self._complain(f"gave no advice within {ADVICE_TIMEOUT:g} s; the montage goes on")
            return GOOD
        answer, self._pending = self._pending, None
        try:
            said = Advice.from_mapping(answer.result())
        except Exception as error:
            self._complain(f"gave no advice ({_text(error)}); the montage goes on")
            return GOOD
        return replace(said, retake=tuple(self._known(said.retake)))

    def failed(self) -> MsgGenerator[list[int]]:
        """Ask which tiles failed, and wait until all are judged.

        Returns
        -------
        list of int
            Indices in order, each once.
        """
        answer = _on_a_thread(self._gate.failed, self._uid, GATE_TIMEOUT)
        yield from _await(answer, GATE_TIMEOUT + _GRACE, _FAILED_POLL)
        try:
            return self._known(_whole("failed", index) for index in answer.result(timeout=0))
        except Exception as error:
            problem = _text(error) if answer.done() else f"no answer within {GATE_TIMEOUT:g} s"
            self._complain(f"did not judge run {self._uid} ({problem}); no tile is taken again")
            return []

    def _known(self, indices: Iterable[int]) -> list[int]:
        """Give the tiles that there are, in order, each once."""
        found = sorted(set(indices))
        unknown = [index for index in found if not 0 <= index < self._n_tiles]
        if unknown:
            self._complain(f"names tiles {unknown}; there are 0 to {self._n_tiles - 1}")
        return [index for index in found if index not in unknown]

    def _complain(self, what: str) -> None:
        """Log what is wrong with the gate, once; it may be wrong at each of thousands of tiles."""
        if what not in self._complaints:
            self._complaints.add(what)
            _log.error("the quality gate %s", what)


def _on_a_thread(ask: Callable[..., Any], *arguments: Any) -> Future[Any]:
    answer: Future[Any] = Future()

    def put() -> None:
        try:
            answer.set_result(ask(*arguments))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=put, name="quality-gate", daemon=True).start()
    return answer


def _await(answer: Future[Any], timeout: float, period: float) -> MsgGenerator[None]:
    """Wait for an answer so that the RunEngine can be paused and stopped meanwhile."""
    wait([answer], _AT_ONCE)
    for _ in range(ceil(timeout / period)):
        if answer.done():
            return
        yield from bps.checkpoint()
        yield from bps.sleep(period)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise TypeError(f"{name} has {value!r}, which is no whole number from 0 on")
    return int(value)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
