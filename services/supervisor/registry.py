"""All that a client may command, by name: plans for the queue, and actions that are done at once.

The server and the plan worker build the same registry, from the same code and configuration.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

from pydantic import TypeAdapter, ValidationError

from config import Config
from services.supervisor.commands import CommandRefusedError, Name
from services.supervisor.entry import Entry, Kind, nearest, shortened
from services.supervisor.plan_list import PLANS
from services.supervisor.signatures import RegistryError

__all__ = ["Entry", "Kind", "Registry", "RegistryError", "plan_registry"]

log = logging.getLogger(__name__)

ENTRY_POINTS = "temline.plans"
"""The group of a site's own plans."""

_WRITE_TO = {"plan": "Command", "action": "Immediate"}
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Registry:
    """All that a client may command, by name.

    Attributes
    ----------
    problems : dict of str to str
        Plans that were left out, and why.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.problems: dict[str, str] = {}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Add an entry.

        Raises
        ------
        RegistryError
            If it has no name that a command can have, or that of another.
        """
        try:
            _NAME.validate_python(entry.name)
        except ValidationError:
            raise RegistryError(
                f"{entry.name!r} is no name for a command; it must be up to 64 letters, digits, _ "
                "and ., the first no digit"
            ) from None
        if entry.name in self._entries:
            taken = self._entries[entry.name]
            raise RegistryError(f"{entry.name} is the name of another {taken.kind}; choose another")
        self._entries[entry.name] = entry

    def get(self, name: str, kind: Kind | None = None) -> Entry:
        """Give an entry.

        Parameters
        ----------
        name : str
        kind : {"plan", "action"}, optional
            That it must be of.

        Raises
        ------
        CommandRefusedError
            If there is none; the reason names the nearest, or says where to write it.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = [one for one in self if kind in {None, self[one].kind}]
            hint = nearest(name, known, "there are")
            raise CommandRefusedError(
                f"there is no {kind or 'command'} '{shortened(name)}'; {hint}"
            )
        if kind is not None and entry.kind != kind:
            article = "an" if entry.kind == "action" else "a"
            raise CommandRefusedError(
                f"{name} is {article} {entry.kind}: write it to {_WRITE_TO[entry.kind]}"
            )
        return entry

    def schema(self) -> dict[str, list[dict[str, Any]]]:
        """Describe all to clients, in the order of their names."""
        entries = [self[name] for name in self]
        return {
            f"{kind}s": [entry.schema() for entry in entries if entry.kind == kind]
            for kind in _WRITE_TO
        }

    def text(self) -> str:
        """Give the schema as compact JSON."""
        return json.dumps(self.schema(), ensure_ascii=False, separators=(",", ":"))


def plan_registry(config: Config) -> Registry:
    """Make the registry of all plans: ours, and a site's by entry points.

    A plan that cannot be had is logged and left out.

    Parameters
    ----------
    config : Config
    """
    registry = Registry()
    for name, load in _plans():
        try:
            registry.add(Entry.plan(name, load(), config))
        except (Exception, SystemExit) as error:  # whatever a site's module does when imported
            known = isinstance(error, RegistryError)
            reason = str(error) if known else f"{name}: {type(error).__name__}: {error}"
            log.error("plan left out: %s", reason, exc_info=None if known else error)
            registry.problems[name] = reason
    return registry


def _plans() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give names and how to load what they name, in an order that is the same everywhere."""
    for name, function in PLANS:
        yield name, lambda function=function: function  # type: ignore[misc]
    points = entry_points(group=ENTRY_POINTS)
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        yield point.name, point.load
