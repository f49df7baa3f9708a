"""What all benchmarks share: one form of result, its table, its JSON, its command line.

A figure is always told beside a reference that was measured in the same run, and a goal.
"""

from __future__ import annotations

import argparse
import json
import operator
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One figure of a benchmark.

    Attributes
    ----------
    name : str
    value : float
    unit : str
    reference : str
        A physical limit, or a peer, measured in the same run.
    reference_value : float or None
        In the same unit; None if there is nothing to compare with.
    goal : float or None
        In the unit of `value`, or of the ratio if `goal_is_ratio`.
    better : {"less", "more"}
        On which side of the goal it is met.
    goal_is_ratio : bool
        Whether the goal holds for value / reference_value.
    ratio, met : derived
        value / reference_value, and whether the goal is reached; None if there is none.
    """

    name: str
    value: float
    unit: str
    reference: str = ""
    reference_value: float | None = None
    goal: float | None = None
    better: Literal["less", "more"] = "less"
    goal_is_ratio: bool = False
    ratio: float | None = field(init=False)
    met: bool | None = field(init=False)

    def __post_init__(self) -> None:
        ratio = self.value / self.reference_value if self.reference_value else None
        judged = ratio if self.goal_is_ratio else self.value
        reached = operator.le if self.better == "less" else operator.ge
        met = None if self.goal is None or judged is None else bool(reached(judged, self.goal))
        object.__setattr__(self, "ratio", ratio)
        object.__setattr__(self, "met", met)


Measure = Callable[[bool], Iterable[Result]]

WIDTH = 150  # of a table that is not shown on a terminal, in characters


def best(action: Callable[[], object], repeats: int) -> float:
    """Give the shortest time that this thread works at an action, in ms.

    Other work on the machine does not count in it.
    """
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        action()
        times.append(time.thread_time() - start)
    return 1e3 * min(times)


def run(name: str, description: str, measure: Measure) -> None:
    """Be the command line of a benchmark: measure, print a table, write JSON if asked.

    Parameters
    ----------
    name : str
        Of the module in `benchmarks`.
    description : str
        What it measures, for the help.
    measure : callable
        Called with whether to be quick (fewer cases, for a first look); gives results, each as
        soon as it is known.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console = Console(width=WIDTH)
    results = []
    with console.status("measuring …") as status:
        try:
            for result in measure(arguments.quick):
                results.append(result)
                status.update(f"measured: {result.name} …")
        finally:  # what was measured is told, also if what came next failed
            console.print(table(results))
    if arguments.json:
        content = json.dumps([asdict(result) for result in results], indent=2)
        arguments.json.write_text(content + "\n", encoding="utf-8")


def table(results: Iterable[Result]) -> Table:
    """Lay results out as a table for the terminal."""
    grid = Table(box=None, pad_edge=False)
    for heading in ("", "reference"):
        grid.add_column(heading, overflow="fold")
    for heading in ("value", "reference", "ratio", "goal"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        grid.add_row(
            result.name,
            result.reference,
            _quantity(result.value, result.unit),
            ""
            if result.reference_value is None
            else _quantity(result.reference_value, result.unit),
            "" if result.ratio is None else f"{result.ratio:.3g} ×",
            _goal(result),
        )
    return grid


def _quantity(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".rstrip()


def _goal(result: Result) -> str:
    if result.goal is None:
        return ""
    sign = "≤" if result.better == "less" else "≥"
    goal = f"{result.goal:g} ×" if result.goal_is_ratio else _quantity(result.goal, result.unit)
    return f"{sign} {goal} {'✓' if result.met else '✗'}"
