"""What all groups of settings share: frozen, validated, buildable from plain data.

An unknown key is an error that names the nearest known one, and each number has its range.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import field, fields, replace
from math import isfinite
from typing import Any, Self

from simulation.errors import SettingsError


class Settings:
    """What all groups of settings share: a range for each number, and building from plain data."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            if "range" in item.metadata:
                self._check(item.name, *item.metadata["range"], item.metadata["units"])
            elif isinstance(item.default, bool):
                self._check_switch(item.name)

    def _check(self, name: str, low: float, high: float, units: str) -> None:
        value = getattr(self, name)
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            good = isinstance(number, (int, float)) and isfinite(number) and low <= number <= high
            if not good or isinstance(number, bool):
                raise SettingsError(
                    f"{type(self).__name__}.{name} is {value!r}; "
                    f"it must lie between {low:g} and {high:g} {units}".rstrip()
                )

    def _check_switch(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise SettingsError(
                f"{type(self).__name__}.{name} is {getattr(self, name)!r}; it must be true or false"
            )

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Build settings from plain data, such as a part of a YAML or JSON file.

        Parameters
        ----------
        options : mapping
            Values by field name; groups are mappings themselves, tuples may be lists. What is not
            named keeps its default.

        Raises
        ------
        SettingsError
            If a key is unknown (the message names the nearest) or a value is out of range.
        """
        return cls().updated(options)

    def updated(self, options: Mapping[str, Any]) -> Self:
        """Return a copy with some values replaced, as `from_mapping` takes them."""
        known = [item.name for item in fields(self)]  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for key, value in options.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise SettingsError(f"{type(self).__name__} has no setting {key!r}; {hint}")
            values[key] = self._converted(key, value)
        return replace(self, **values)  # type: ignore[type-var]

    def _converted(self, key: str, value: Any) -> Any:
        present = getattr(self, key)
        if not isinstance(present, Settings):
            return _as_tuples(value)
        if isinstance(value, type(present)):
            return value
        if isinstance(value, Mapping):
            return present.updated(value)
        raise SettingsError(
            f"{type(self).__name__}.{key} is {value!r}; give a mapping of {type(present).__name__}"
        )


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def ranged(default: Any, low: float, high: float, units: str = "") -> Any:
    """Declare a number, or a tuple of them, with the range that it must lie in."""
    return field(default=default, metadata={"range": (low, high), "units": units})
