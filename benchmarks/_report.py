"""What all benchmarks share: one form of result, its table, its JSON, its command line.

A figure is always told beside a reference that was measured in the same run, and a goal.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from simulation import WORLDS, World


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
    world : str
        Of the virtual microscope, where it was measured in several: "kind" or "real".
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
    world: str = ""
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
MeasureWorld = Callable[[bool, World], Iterable[Result]]

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
    arguments = _parser(name, description).parse_args()
    _measure_and_tell(measure(arguments.quick), table, arguments.json)


def run_in_worlds(name: str, description: str, measure: MeasureWorld) -> None:
    """Be the command line of a benchmark that measures in both worlds of the virtual microscope.

    Parameters
    ----------
    name, description : str
        See `run`.
    measure : callable
        Called with whether to be quick and with a world. What is told under one name in both
        stands side by side.
    """
    parser = _parser(name, description)
    parser.add_argument(
        "--world",
        choices=("both", *WORLDS),
        default="both",
        help="the kind simulator, the one with the faults of real instruments, or both",
    )
    arguments = parser.parse_args()
    worlds: Sequence[World] = WORLDS if arguments.world == "both" else (arguments.world,)
    results = (
        replace(result, world=world)
        for world in worlds
        for result in measure(arguments.quick, world)
    )
    _measure_and_tell(results, table_of_worlds, arguments.json)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    return parser


def _measure_and_tell(
    measured: Iterable[Result], layout: Callable[[list[Result]], Table], file: Path | None
) -> None:
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console = Console(width=WIDTH)
    results: list[Result] = []
    with console.status("measuring …") as status:
        try:
            for result in measured:
                results.append(result)
                status.update(f"measured: {result.name} …")
                if not console.is_terminal:  # whoever ends it early has what was measured
                    print(f"{result.name}: {_quantity(result.value, result.unit)}", file=sys.stderr)
        finally:  # what was measured is told, also if what came next failed
            console.print(layout(results))
    if file is not None:
        content = json.dumps([asdict(result) for result in results], indent=2)
        file.write_text(content + "\n", encoding="utf-8")


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


def table_of_worlds(results: Iterable[Result]) -> Table:
    """Lay results out with a column for each world, and below each value what it is compared to."""
    rows: dict[tuple[str, int], dict[str, Result]] = {}
    told: Counter[tuple[str, str]] = Counter()
    for result in results:  # one figure may be told several times, beside several references
        told[result.world, result.name] += 1
        row = rows.setdefault((result.name, told[result.world, result.name]), {})
        row[result.world] = result
    worlds = [world for world in WORLDS if any(world in row for row in rows.values())]
    grid = Table(box=None, pad_edge=False)
    grid.add_column("", overflow="fold", ratio=2)
    for world in worlds:
        grid.add_column(world, overflow="fold", ratio=2)
    for (name, _), row in rows.items():
        grid.add_row(name, *(_cell(row.get(world)) for world in worlds))
    return grid


def _cell(result: Result | None) -> str:
    """Tell a figure in a table of worlds."""
    if result is None:
        return ""
    goal = _goal(result)
    first = _quantity(result.value, result.unit) + (f"  ({goal})" if goal else "")
    if result.reference_value is None:
        return f"{first}\n{result.reference}".rstrip()
    beside = _quantity(result.reference_value, result.unit)
    return f"{first}\n{result.reference}: {beside}, {result.ratio:.3g} ×"


def _quantity(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".rstrip()


def _goal(result: Result) -> str:
    if result.goal is None:
        return ""
    sign = "≤" if result.better == "less" else "≥"
    goal = f"{result.goal:g} ×" if result.goal_is_ratio else _quantity(result.goal, result.unit)
    return f"{sign} {goal} {'✓' if result.met else '✗'}"
