"""What a function may be given by a client: worked out from its signature and its docstring.

Types are checked as strictly as JSON allows. What cannot be sent (a device, the quality gate) is
named, and filled in where the function is called.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import partial
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import DocstringStyle, parse
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from plans import QualityGate
from plans.checks import MAX_PLACE
from processing.geometry import Region
from services.errors import PlainError
from services.supervisor.commands import CommandRefusedError
from services.supervisor.guards import Guards
from services.supervisor.plan_list import Resources

Role = Literal["device", "gate", "resources"]

MAX_CORNERS = 200
"""Of a region; the time to check them grows with their square, and is 40 ms for these."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_PLAIN = (bool, int, float, str, NoneType)
_MADE_OF: dict[Any, Any] = {
    **dict.fromkeys((list, Sequence, Collection, Iterable), list),
    **dict.fromkeys((dict, Mapping, MutableMapping), dict),
    **dict.fromkeys((Union, UnionType), Union),
    tuple: tuple,
}
_IF_BARE: dict[Any, Any] = {list: (Any,), dict: (str, Any), tuple: (Any, ...)}
_SUPPORTED = (
    "numbers, str, bool, Literal, enumerations, lists, tuples and mappings of these, dataclasses, "
    "Path, Region, QualityGate and Resources can be used"
)
_ROLES: Mapping[Role | None, str] = {
    "device": "Name of a device.",
    "gate": "Whether the instrument's own quality gate is used.",
}
_WELL_KNOWN = {
    "sample": "Name of the sample, or what is known of it.",
    "operator": "Who takes the run.",
}


class RegistryError(PlainError):
    """A function that cannot be offered to clients; the message says why and what to do."""


@dataclass(frozen=True)
class Signature:
    """What a function may be given.

    Attributes
    ----------
    model : type of BaseModel
        One field a parameter that can be sent.
    positional : tuple of str
        What may be given by place, in order.
    doc : str
        What the function does, in short.
    roles : mapping of str to {"device", "gate", "resources"}
        Parameters that are filled in: a device by the name that was sent, the instrument's quality
        gate if it is wanted, what the plan worker has.
    parameters : dict
        JSON schema of the model.
    """

    model: type[BaseModel]
    positional: tuple[str, ...]
    doc: str
    roles: Mapping[str, Role]
    parameters: dict[str, Any]


_Place = Annotated[float, Field(ge=-MAX_PLACE, le=MAX_PLACE)]
_Side = Annotated[float, Field(gt=0, le=MAX_PLACE)]
_Point = tuple[_Place, _Place]


class Polygon(BaseModel):
    """A region of the stage by its corners."""

    model_config = _STRICT

    vertices: list[_Point] = Field(
        min_length=3, max_length=MAX_CORNERS, description="Stage (x, y) in µm, in order round it."
    )


class Rectangle(BaseModel):
    """A region of the stage by its middle and its sides."""

    model_config = _STRICT

    centre: _Point = Field(description="Stage (x, y) of its middle, in µm.")
    width: _Side = Field(description="Along x before it is turned, in µm.")
    height: _Side = Field(description="Along y before it is turned, in µm.")
    angle: float = Field(default=0.0, description="In degrees, counter-clockwise.")


def _kind_of_region(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else ()
    return "polygon" if "vertices" in keys else "rectangle" if "centre" in keys else None


_Region = Annotated[
    Annotated[Polygon, Tag("polygon")] | Annotated[Rectangle, Tag("rectangle")],
    Discriminator(
        _kind_of_region,
        custom_error_type="region",
        custom_error_message="Input should be an object with vertices, or with centre, width, "
        "height and, if it is turned, angle",
    ),
    AfterValidator(lambda region: Region.from_mapping(region.model_dump())),
]


def model_of(
    function: Callable[..., Any],
    *,
    name: str,
    devices: Collection[str] = (),
    skip: Collection[str] = ("self",),
    defaults: Mapping[str, Any] | None = None,
    like: Callable[..., Any] | None = None,
    guards: Guards | None = None,
) -> Signature:
    """Work out what a function may be given.

    Parameters
    ----------
    function : callable
        Its parameters have types; descriptions stand in its docstring, as numpydoc has it.
    name : str
        That clients call it by.
    devices : collection of str
        Names of the configured devices: what parameters without a type are.
    skip : collection of str
        Parameters that are none of the clients' business.
    defaults : mapping, optional
        That stand in for those of the function.
    like : callable, optional
        Has the types and descriptions of parameters of the same names.
    guards : Guards, optional
        Says where a Path may lie.

    Raises
    ------
    RegistryError
        If a parameter cannot be sent; the message names it and says what to do.
    """
    words = _descriptions(function) | (_descriptions(like) if like else {})
    given = defaults or {}
    fields: dict[str, Any] = {}
    roles: dict[str, Role] = {}
    positional: list[str] = []
    for parameter in _parameters(function, like, name):
        if parameter.name in skip:
            continue
        default = given.get(parameter.name, parameter.default)
        try:
            _check(parameter, default)
            role = _role_of(parameter, devices)
            if role is not None:
                roles[parameter.name] = role
            if role == "resources":
                continue
            kind, default = _sent(parameter, role, default, devices, guards)
        except (TypeError, ValueError) as error:
            raise RegistryError(f"{name}: parameter {parameter.name!r}: {error}") from None
        text = _description(parameter.name, role, words)
        fields[parameter.name] = kind, Field(default, description=text)
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            positional.append(parameter.name)
    model = create_model(name, __config__=_STRICT, **fields)
    schema = model.model_json_schema(schema_generator=_JsonSchema)
    return Signature(model, tuple(positional), _summary(function), roles, schema)


def _parameters(
    function: Callable[..., Any], like: Callable[..., Any] | None, name: str
) -> list[Parameter]:
    try:
        own = inspect.signature(function, eval_str=True).parameters.values()
        theirs = inspect.signature(like, eval_str=True).parameters if like else {}
    except Exception as error:  # such as: a name that is imported for type checkers only
        raise RegistryError(f"{name}: its signature cannot be read: {error}") from error
    return [theirs.get(parameter.name, parameter) for parameter in own]


def _check(parameter: Parameter, default: Any) -> None:
    """Refuse what cannot be called by keyword, be a field, or be told as JSON."""
    if parameter.kind not in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}:
        raise TypeError(f"it is {parameter.kind.description}; give each argument a name of its own")
    if parameter.name.startswith("_") or hasattr(BaseModel, parameter.name):
        raise TypeError("pydantic has the name for itself; choose another")
    if default is not Parameter.empty:
        json.dumps(to_jsonable_python(default), allow_nan=False)


def _role_of(parameter: Parameter, devices: Collection[str]) -> Role | None:
    hints = [hint for hint in _members(parameter.annotation) if hint is not NoneType]
    if hints == [Resources]:
        return "resources"
    if hints == [QualityGate]:
        return "gate"
    if hints not in ([Any], [Parameter.empty]):
        return None
    if parameter.name in devices:
        return "device"
    raise TypeError(
        "it has no type and is no device of the configuration; give it a type, or the name of a "
        f"device ({', '.join(devices) or 'there are none'})"
    )


def _members(hint: Any) -> tuple[Any, ...]:
    """Give the members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _sent(
    parameter: Parameter,
    role: Role | None,
    default: Any,
    devices: Collection[str],
    guards: Guards | None,
) -> tuple[Any, Any]:
    """Give type and default of what is sent for a parameter."""
    if role == "gate":
        return bool, True
    if role is None:
        return _type(parameter.annotation, guards), ... if default is Parameter.empty else default
    kind: Any = Literal[tuple(devices)]
    if default is None:
        return kind | None, None
    return kind, parameter.name if default is Parameter.empty else default


def _description(name: str, role: Role | None, words: Mapping[str, str]) -> str | None:
    text = words.get(name) or _WELL_KNOWN.get(name, "")
    return f"{_ROLES.get(role, '')} {text}".strip() or None


def _type(hint: Any, guards: Guards | None) -> Any:
    """Give the type that JSON is checked against, for the type of a parameter."""
    kind, args = get_origin(hint) or hint, get_args(hint)
    if Region in _members(hint):  # and whatever else makes one
        return Union[(_Region, *(one for one in _members(hint) if one is NoneType))]
    if kind is Annotated:
        return Annotated[(_type(args[0], guards), *args[1:])]
    if made := _MADE_OF.get(kind):
        args = args or _IF_BARE[made]
        return made[tuple(one if one is ... else _type(one, guards) for one in args)]
    if hint is Any:
        return JsonValue
    if hint is Path and guards is not None:
        return Annotated[str, AfterValidator(partial(_below, guards))]
    if kind is Literal or hint in _PLAIN or _is_enumeration(hint) or _is_record(hint, guards):
        return hint
    raise TypeError(f"its type {inspect.formatannotation(hint)} cannot be sent; {_SUPPORTED}")


def _below(guards: Guards, path: str) -> Path:
    try:
        return guards.data_root / guards.confine(path)
    except CommandRefusedError as error:
        raise ValueError(error.reason) from None


def _is_enumeration(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _is_record(hint: Any, guards: Guards | None) -> bool:
    """Tell whether this is a dataclass whose fields can be sent as they are."""
    return is_dataclass(hint) and all(
        _type(field, guards) == field for field in get_type_hints(hint).values()
    )


def _summary(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(_documented(function)) or ""
    return " ".join(text.split("\n\n")[0].split())


def _descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """Give the words of a docstring for each parameter."""
    text = inspect.getdoc(_documented(function)) or ""
    return {
        name.strip(): " ".join((entry.description or "").split())
        for entry in parse(text, DocstringStyle.NUMPYDOC).params
        for name in entry.arg_name.split(",")
    }


def _documented(function: Callable[..., Any]) -> Callable[..., Any]:
    return function.func if isinstance(function, partial) else function


class _JsonSchema(GenerateJsonSchema):
    """Leaves out titles that only repeat names, and all but the first words on a dataclass."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def dataclass_schema(self, schema: Any) -> Any:
        made = super().dataclass_schema(schema)
        words = _descriptions(schema["cls"])
        made["description"] = _summary(schema["cls"])
        for name, field in made["properties"].items():
            field["description"] = words.get(name, "")
        return made
