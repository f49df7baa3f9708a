"""One thing that a client may command: its arguments are checked, and what it is made from them.

What a client sends is only ever looked up and checked, never evaluated or imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from bluesky.preprocessors import inject_md_wrapper
from bluesky.utils import MsgGenerator, ensure_generator
from pydantic import BaseModel, ValidationError

from config import Config
from services.supervisor.commands import CommandRefusedError
from services.supervisor.guards import Guards
from services.supervisor.plan_list import LIKE, PLANS, Resources, defaults_of
from services.supervisor.signatures import RegistryError, Signature, model_of

Kind = Literal["plan", "action"]

MAX_MISTAKES, MAX_SHOWN = 3, 60
"""Mistakes that a refusal names, and characters of what was found."""


@dataclass(frozen=True)
class Entry:
    """One thing that a client may command.

    Attributes
    ----------
    name : str
    kind : {"plan", "action"}
    signature : Signature
    call : callable
    """

    name: str
    kind: Kind
    signature: Signature
    call: Callable[..., Any]

    @classmethod
    def plan(cls, name: str, function: Callable[..., Any], config: Config) -> Entry:
        """Make the entry of a plan.

        Raises
        ------
        RegistryError
            If a parameter cannot be sent.
        """
        ours = (name, function) in PLANS
        signature = model_of(
            function,
            name=name,
            devices=list(config.devices),
            defaults=defaults_of(name, config) if ours else None,
            like=LIKE.get(name) if ours else None,
            guards=Guards(config.data.folder.absolute()),
        )
        return cls(name, "plan", signature, function)

    @classmethod
    def action(
        cls, function: Callable[..., Any], name: str = "", skip: Collection[str] = ("self",)
    ) -> Entry:
        """Make the entry of an action.

        Parameters
        ----------
        function : callable
            To be called with `values`.
        name : str
            The function's own, if it is left out.
        skip : collection of str
            Parameters that are none of the clients' business.

        Raises
        ------
        RegistryError
            If a parameter cannot be sent.
        """
        name = name or function.__name__
        return cls(name, "action", model_of(function, name=name, skip=skip), function)

    @property
    def doc(self) -> str:
        """What it does, in short."""
        return self.signature.doc

    def bind(self, args: list[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Give a client's arguments by name, as plain JSON: only those that were given.

        Raises
        ------
        CommandRefusedError
            If they do not fit; the reason says what was found and what was expected.
        """
        known, positional = self.signature.model.model_fields, self.signature.positional
        for name in kwargs:
            if name not in known:
                hint = nearest(name, known, "it takes")
                raise self._refusal(f"unknown argument '{shortened(name)}'; {hint}")
        if len(args) > len(positional):
            raise self._refusal(
                f"{len(args)} arguments by place; at most {len(positional)} can be given so: "
                f"{', '.join(positional) or 'none'}"
            )
        by_place = dict(zip(positional, args, strict=False))
        for name in by_place:
            if name in kwargs:
                raise self._refusal(f"argument '{name}' is given twice, in args and in kwargs")
        text, _ = self._validated(by_place | dict(kwargs))
        bound: dict[str, Any] = json.loads(text)
        return bound

    def values(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give what to call with, as the function wants it, but for what is only named.

        Parameters
        ----------
        arguments : mapping
            As `bind` gives them.

        Raises
        ------
        CommandRefusedError
            If they do not fit.
        """
        _, model = self._validated(arguments)
        return {name: getattr(model, name) for name in type(model).model_fields}

    def plan_of(
        self,
        arguments: Mapping[str, Any],
        resources: Resources,
        md: Mapping[str, Any] | None = None,
    ) -> MsgGenerator[Any]:
        """Make the plan.

        Parameters
        ----------
        arguments : mapping
            As `bind` gives them.
        resources : Resources
        md : mapping, optional
            Metadata for the start documents of all its runs; it goes over the client's own.

        Raises
        ------
        CommandRefusedError
            If the arguments do not fit, or a device is not there or not connected.
        """
        values = self.values(arguments)
        for name, role in self.signature.roles.items():
            if role == "resources":
                values[name] = resources
            elif role == "gate":
                values[name] = resources.gate if values[name] else None
            elif values[name] is not None:
                values[name] = self._device(values[name], resources)
        if md and "md" in values:
            values["md"] = {**(values["md"] or {}), **md}
        made = self.call(**values)
        try:
            plan = ensure_generator(made)
        except TypeError:
            raise RegistryError(f"{self.name} gave {made!r}; a plan gives messages") from None
        return inject_md_wrapper(plan, md) if md and "md" not in values else plan

    def schema(self) -> dict[str, Any]:
        """Describe it to clients."""
        return {
            "name": self.name,
            "kind": self.kind,
            "doc": self.doc,
            "positional": list(self.signature.positional),
            "parameters": self.signature.parameters,
        }

    def _validated(self, given: Mapping[str, Any]) -> tuple[str, BaseModel]:
        """Check arguments; give them as JSON and as they are to be used."""
        try:
            text = json.dumps(dict(given), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._refusal(f"the arguments are no JSON: {error}") from None
        try:
            return text, self.signature.model.model_validate_json(text)
        except ValidationError as error:
            raise self._refusal(_explain(error, given, self.signature.model)) from None

    def _device(self, name: str, resources: Resources) -> Any:
        device = resources.devices.get(name)
        if device is None:
            there = ", ".join(resources.devices) or "none"
            raise self._refusal(f"the device {name} is not there; there are {there}")
        if not getattr(device, "connected", True):  # parts of it may not have been needed yet
            from services.engine import connect_devices

            missing = connect_devices({name: device}, resources.config.epics.connection_timeout)
            if name in missing:
                raise self._refusal(f"the device {name} is not connected: {missing[name]}")
        return device

    def _refusal(self, reason: str) -> CommandRefusedError:
        return CommandRefusedError(f"{self.name}: {reason}")


def _explain(error: ValidationError, given: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Say in one line which arguments are wrong: what was found, and what was expected."""
    wanted: dict[str, list[str]] = {}  # by what was found: each branch of a union wants its own
    for mistake in error.errors(include_url=False, include_context=False):
        found, expected = _mistake(mistake, given, model)
        wanted.setdefault(found, []).append(expected)
    said = [f"{found}: {_alternatives(expected)}" for found, expected in wanted.items()]
    more = f" (and {len(said) - MAX_MISTAKES} more)" if len(said) > MAX_MISTAKES else ""
    return "; ".join(said[:MAX_MISTAKES]) + more


def _mistake(mistake: Any, given: Any, model: type[BaseModel]) -> tuple[str, str]:
    """Give what was found where, and what pydantic says of it."""
    place: list[str] = []
    value = given
    for part in mistake["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            continue  # the label of a union's branch
        place.append(str(part))
    if mistake["type"] == "json_invalid":
        return "the arguments are no JSON", mistake["msg"]
    if mistake["type"] == "missing":
        field = None if place else model.model_fields[mistake["loc"][0]]
        place.append(str(mistake["loc"][-1]))
        words = field.description if field else None
        return f"{'.'.join(place)} is missing", words or "it must be given"
    where = ".".join(place)
    if mistake["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{where} is unknown", "leave it out"
    return f"{where} is {shortened(json.dumps(value, ensure_ascii=False))}", mistake["msg"]


def _alternatives(expected: list[str]) -> str:
    """Join what the branches of a union want."""
    texts = [text.removeprefix("Value error, ") for text in dict.fromkeys(expected)]
    first = texts[0].replace("Input should be", "it must be", 1)
    return " or ".join([first, *(text.removeprefix("Input should be ") for text in texts[1:])])


def nearest(name: str, known: Collection[str], are: str) -> str:
    """Name the nearest of what is known, or all.

    Parameters
    ----------
    name : str
        That is not known.
    known : collection of str
    are : str
        Said before all: "there are".
    """
    near = get_close_matches(name, known, n=1)
    return f"do you mean '{near[0]}'?" if near else f"{are} {', '.join(known) or 'none'}"


def shortened(text: str) -> str:
    """Give what a client sent as it can stand in a reason: not too long, all of it UTF-8."""
    shown = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
    return shown.encode(errors="backslashreplace").decode()
