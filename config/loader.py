"""Reads the layers of a configuration and lays them over each other.

Each value keeps its source, so that a person sees where it was set and where an error is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from config.model import Config

HERE = Path(__file__).parent
DEFAULT = HERE / "default.yml"
SIMULATOR = HERE / "simulator.yml"
SITE_VARIABLE = "TEMLINE_CONFIG"
VARIABLE_PREFIX = "TEMLINE_"
OTHERS = {SITE_VARIABLE, "TEMLINE_TOKEN", "TEMLINE_TOKENS"}  # secrets are no configuration
ANY_NAME = "<name>"

Key = tuple[str, ...]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where and what is allowed."""


@dataclass(frozen=True)
class Layer:
    """Values that lie over those of the layers below, and the source of each.

    Attributes
    ----------
    values : dict
        Nested, as the model is.
    sources : dict of tuple of str to str
        For each key, given as its path, the file and line, variable or command that set it.
    """

    values: dict[str, Any]
    sources: dict[Key, str]


@dataclass(frozen=True)
class Loaded:
    """A checked configuration and the source of each of its values."""

    config: Config
    values: dict[str, Any]
    sources: dict[Key, str]

    def table(self) -> Iterator[tuple[str, Any, str]]:
        """Give (dotted key, value, source) of every value that was set, in the model's order."""
        for key, value in _leaves(self.values):
            yield ".".join(key), value, self.sources[key]


def load(
    site: str | Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
    overrides_from: str = "the command line",
) -> Loaded:
    """Merge the layers and check the result.

    The layers, each over the one before: `default.yml`; the site's file or else
    `simulator.yml`; what the caller overrides; the environment.

    Parameters
    ----------
    site : path, optional
        The site's YAML file. Without it the variable TEMLINE_CONFIG names one, and without
        that the instrument is the virtual microscope.
    environ : mapping
        TEMLINE_SECTION__KEY sets section.key, TEMLINE_KEY a key of no section. Values are
        read as YAML, so that numbers, lists and null can be given.
    overrides : mapping, optional
        Nested values that a command sets, like the free ports of the demo.
    overrides_from : str
        What is given as their source.

    Raises
    ------
    ConfigError
        If a file cannot be read, a key is not known, or a value is not allowed. The message
        names the source, the key, the value, and what is allowed or the nearest known key.
    """
    chosen = site or environ.get(SITE_VARIABLE) or SIMULATOR
    layers = [
        read_file(DEFAULT),
        read_file(Path(chosen)),
        _layer_of(dict(overrides or {}), overrides_from),
        _read_environment(environ),
    ]
    values: dict[str, Any] = {}
    sources: dict[Key, str] = {}
    for layer in layers:
        _lay_over(values, layer.values)
        for key, source in layer.sources.items():
            sources.pop(key, None)  # so that the order is that of the layers
            sources[key] = source
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, values, sources)) from None
    return Loaded(config, values, sources)


def read_file(path: Path) -> Layer:
    """Read one YAML file as a layer, with the line of each value.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, is not a mapping, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read this configuration file: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file in UTF-8") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from None
    if node is None:
        return Layer({}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: holds a {type(values).__name__}; a mapping is expected")
    return Layer(values, dict(_lines(node, path)))


def _lines(node: yaml.MappingNode, path: Path, above: Key = ()) -> Iterator[tuple[Key, str]]:
    """Give the file and line of every key, and refuse a key that stands twice."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line, name = key_node.start_mark.line + 1, str(key_node.value)
        if name in seen:
            dotted = ".".join((*above, name))
            raise ConfigError(f"{path}:{line}: {dotted} was set already in line {seen[name]}")
        seen[name] = line
        key = (*above, name)
        yield key, f"{path}:{line}"
        if isinstance(value_node, yaml.MappingNode):
            yield from _lines(value_node, path, key)


def _read_environment(environ: Mapping[str, str]) -> Layer:
    """Read the variables TEMLINE_SECTION__KEY as a layer."""
    values: dict[str, Any] = {}
    sources: dict[Key, str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(VARIABLE_PREFIX) or variable in OTHERS:
            continue
        key = tuple(variable.removeprefix(VARIABLE_PREFIX).lower().split("__"))
        try:
            value = yaml.safe_load(text) if text else ""
            if isinstance(value, dict) and not text.startswith("{"):
                value = text  # such as "LAB7:", which YAML takes for a mapping
        except yaml.YAMLError as error:
            raise ConfigError(f"environment variable {variable}: {error}") from None
        _lay_over(values, _nest(key, value))
        sources[key] = f"environment variable {variable}"
    return Layer(values, sources)


def _nest(key: Key, value: Any) -> dict[str, Any]:
    for name in reversed(key):
        value = {name: value}
    return value


def _layer_of(values: dict[str, Any], source: str) -> Layer:
    """Make a layer of plain values that all come from one source."""
    return Layer(values, {key: source for key, _ in _leaves(values)})


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Lay mappings over mappings, key by key; any other value replaces, null takes away."""
    for name, value in above.items():
        lower = below.get(name)
        if isinstance(value, Mapping):
            below[name] = dict(lower) if isinstance(lower, Mapping) else {}
            _lay_over(below[name], value)
        elif value is None and isinstance(lower, Mapping):
            del below[name]
        else:
            below[name] = value


def _leaves(values: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Give every value that is not itself a mapping with keys, and its path."""
    for name, value in values.items():
        key = (*above, str(name))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, key)
        else:
            yield key, value


def _explain(error: ValidationError, values: dict[str, Any], sources: dict[Key, str]) -> str:
    """Say of each mistake where it was made, what was found and what is allowed."""
    lines = []
    seen = set()
    for mistake in error.errors():
        key = _key_in(values, mistake["loc"])
        if key in seen and mistake["type"] != "extra_forbidden":
            continue  # further branches of the same union
        seen.add(key)
        where, dotted = _source(sources, key), ".".join(key)
        if mistake["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key {dotted}{_nearest(key)}")
        elif mistake["type"] == "missing":
            lines.append(f"{where}: {'.'.join(map(str, mistake['loc']))} is missing")
        else:
            found = _shown(mistake["input"])
            allowed = "; ".join(
                dict.fromkeys(
                    _allowed(other)
                    for other in error.errors()
                    if _key_in(values, other["loc"]) == key
                )
            )
            lines.append(f"{where}: {dotted} is {found}; {allowed}{_described(key)}")
    return "\n".join(lines)


def _allowed(mistake: Any) -> str:
    message = mistake["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _shown(value: Any, longest: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _key_in(values: Any, location: tuple[int | str, ...]) -> Key:
    """Keep the part of pydantic's location that exists in the values (not union branches)."""
    key: list[str] = []
    for part in location:
        if not isinstance(values, Mapping) or part not in values:
            break
        key.append(str(part))
        values = values[part]
    return tuple(key)


def _source(sources: dict[Key, str], key: Key) -> str:
    """Find what set a key, or else what last set something in it, or the nearest key above it."""
    if key in sources:
        return sources[key]
    for known in reversed(sources):
        if known[: len(key)] == key:
            return sources[known]
    return _source(sources, key[:-1])


def _nearest(key: Key) -> str:
    """Name the known key that is most like an unknown one: beside it first, then anywhere."""
    *above, name = key
    beside = [known[-1] for known in _known_fields() if _same_place(known[:-1], key[:-1])]
    if close := get_close_matches(name, beside, n=1):
        return f"; did you mean {'.'.join((*above, close[0]))}?"
    everywhere = [".".join(known) for known in _known_fields()]
    elsewhere = [known for known in everywhere if known.rpartition(".")[2] == name]
    elsewhere = elsewhere or get_close_matches(".".join(key), everywhere, n=1)
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; known keys here are {', '.join(beside)}"


def _described(key: Key) -> str:
    """Give the model's words for a key, in brackets."""
    for known, field in _known_fields().items():
        if _same_place(known, key) and field.description:
            return f" ({field.description})"
    return ""


def _same_place(known: Key, key: Key) -> bool:
    """Tell whether a key of the model is this one; <name> stands for any device."""
    return len(known) == len(key) and all(
        a in (b, ANY_NAME) for a, b in zip(known, key, strict=True)
    )


def _known_fields(model: type[BaseModel] = Config, above: Key = ()) -> dict[Key, FieldInfo]:
    """List every key of the model, by its path."""
    fields: dict[Key, FieldInfo] = {}
    for name, field in model.model_fields.items():
        key = (*above, field.alias or name)
        fields[key] = field
        inner, inner_key = field.annotation, key
        if get_origin(inner) is dict:
            inner, inner_key = get_args(inner)[1], (*key, ANY_NAME)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            fields |= _known_fields(inner, inner_key)
    return fields
