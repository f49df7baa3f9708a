"""What a function may be given: by its types, its docstring, and the devices that there are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError

from plans import QualityGate, estimate_montage, fly_montage, montage
from processing.geometry import ImageShift, Region
from services.supervisor.guards import Guards
from services.supervisor.plan_list import Resources
from services.supervisor.signatures import MAX_CORNERS, RegistryError, Signature, model_of

if TYPE_CHECKING:
    from decimal import Decimal

DEVICES = ("scope", "stage", "camera", "sequencer")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Spot:
    """A spot.

    Parameters
    ----------
    size : float
        In nm.
    """

    size: float
    places: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"size is {self.size:g} nm; it must be positive")


def signature(function: Callable[..., Any], **options: Any) -> Signature:
    return model_of(function, name="plan", devices=DEVICES, **options)


def value(annotation: Any, sent: Any, **options: Any) -> Any:
    """Give what a function with one parameter of a type gets for what is sent."""

    def plan(it):
        pass

    plan.__annotations__["it"] = annotation
    made = signature(plan, **options)
    return made.model.model_validate_json(json.dumps({"it": sent})).it


SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("annotation", "sent", "expected"),
    [
        (float, 1, 1.0),
        (int | None, None, None),
        (bool, True, True),
        (Literal["a", "b"] | int, 3, 3),
        (Colour, "red", Colour.RED),
        (Sequence[float], [1, 2.5], [1.0, 2.5]),
        (Collection[int], [1], [1]),
        (Iterable[str], ["a"], ["a"]),
        (list, [1, "a"], [1, "a"]),
        (tuple[float, float], [1, 2], (1.0, 2.0)),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (Mapping[str, Any], {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        (dict, {"a": 1}, {"a": 1}),
        (Mapping[str, str | None] | None, {"a": None}, {"a": None}),
        (str | dict[str, Any] | None, "a", "a"),
        (Annotated[float, Field(gt=0)], 1, 1.0),
        (Annotated[Sequence[int], Field(max_length=2)], [1, 2], [1, 2]),
        (ImageShift | None, {"rotation": 90}, ImageShift(rotation=90)),
        (Spot, {"size": 1, "places": [1]}, Spot(1.0, (1.0,))),
        (Region | Mapping[str, Any], {"vertices": SQUARE}, Region(SQUARE)),
        (Region, {"centre": [0, 0], "width": 2, "height": 1}, Region.rectangle((0, 0), 2, 1)),
        (Region | None, None, None),
        (
            Region | Mapping[str, Any],
            {"centre": [1, 2], "width": 3, "height": 4, "angle": 30},
            Region.rectangle((1, 2), 3, 4, 30),
        ),
    ],
)
def test_a_function_gets_what_its_types_say(annotation, sent, expected):
    got = value(annotation, sent)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "sent"),
    [
        (float, "1"),
        (float, True),
        (int, 1.5),
        (int, 1.0),
        (int, False),
        (bool, 1),
        (str, 3),
        (Literal["a", "b"], "c"),
        (Literal["a", "b"] | int, True),
        (Colour, "green"),
        (Sequence[float], 3),
        (Sequence[float], "12"),
        (tuple[float, float], [1, 2, 3]),
        (Mapping[str, Any], []),
        (Mapping[str, str | None], {"a": 1}),
        (float, None),
        (Annotated[float, Field(gt=0)], 0),
        (ImageShift, {"rotatoin": 90}),
        (ImageShift, {"scale": -1}),
        (Spot, {"size": 0}),
        (Region | Mapping[str, Any], {}),
        (Region | Mapping[str, Any], []),
        (Region | Mapping[str, Any], {"vertices": SQUARE[:2]}),
        (Region | Mapping[str, Any], {"vertices": [[0, 0], [2, 2], [2, 0], [0, 1]]}),
        (Region | Mapping[str, Any], {"vertices": [*SQUARE[:3], [0]]}),
        (Region | Mapping[str, Any], {"vertices": SQUARE, "width": 3}),
        (Region | Mapping[str, Any], {"vertices": [[i, i * i] for i in range(MAX_CORNERS + 1)]}),
        (Region | Mapping[str, Any], {"centre": [0, 0], "width": 0, "height": 1}),
        (Region | Mapping[str, Any], {"centre": [0, 0], "width": 1e300, "height": 1}),
        (Region | Mapping[str, Any], {"centre": [0, 0], "width": 1}),
    ],
)
def test_what_is_of_another_type_is_refused(annotation, sent):
    with pytest.raises(ValidationError):
        value(annotation, sent)


def test_a_path_lies_below_the_data_root(tmp_path: Path):
    guards = Guards(tmp_path)
    assert value(Path, "GU-1/a.txt", guards=guards) == tmp_path / "GU-1" / "a.txt"
    assert value(list[Path] | None, ["a"], guards=guards) == [tmp_path / "a"]
    for bad in ("/etc/passwd", "../a", ""):
        with pytest.raises(ValidationError, match="it must be a relative path"):
            value(Path, bad, guards=guards)


def test_devices_gate_and_resources_are_no_matter_of_the_client():
    def plan(
        resources: Resources,
        scope,
        camera: Any,
        n: int,
        *,
        stage: Any = None,
        gate: QualityGate | None = None,
    ):
        pass

    made = signature(plan)
    assert made.roles == {
        "resources": "resources",
        "scope": "device",
        "camera": "device",
        "stage": "device",
        "gate": "gate",
    }
    assert made.positional == ("scope", "camera", "n")
    got = made.model.model_validate_json('{"n": 3}')
    assert got.model_dump() == {
        "scope": "scope",
        "camera": "camera",
        "n": 3,
        "stage": None,
        "gate": True,
    }
    with pytest.raises(ValidationError, match="'scope', 'stage', 'camera' or 'sequencer'"):
        made.model.model_validate_json('{"n": 3, "stage": "laser"}')


def not_a_device(laser):
    pass


def any_type(size: Any):
    pass


def many(*places: float):
    pass


def others(**options: Any):
    pass


def by_place(a: int, /):
    pass


def of_bytes(data: bytes):
    pass


def of_a_class(cell: Path | Guards):
    pass


def a_callback(per_shot: Callable[[], Any] | None = None):
    pass


def a_path(folder: Path):
    pass


def private(_a: int):
    pass


def pydantics(model_dump: bool):
    pass


def endless(most: float = math.inf):
    pass


def no_json(most: Any = None, least: float = object()):  # type: ignore[assignment]
    pass


def unknown_type(size: Decimal):
    pass


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (not_a_device, r"plan: parameter 'laser': it has no type and is no device .* \(scope, st"),
        (any_type, "'size': it has no type and is no device of the configuration; give it a type"),
        (many, "'places': it is variadic positional; give each argument a name of its own"),
        (others, "'options': it is variadic keyword"),
        (by_place, "'a': it is positional-only"),
        (of_bytes, "'data': its type bytes cannot be sent; numbers, str"),
        (of_a_class, "'cell': its type pathlib.Path cannot be sent"),
        (a_callback, "'per_shot': its type collections.abc.Callable.* cannot be sent"),
        (a_path, "'folder': its type pathlib.Path cannot be sent"),  # without guards
        (private, "'_a': pydantic has the name for itself; choose another"),
        (pydantics, "'model_dump': pydantic has the name"),
        (endless, "'most': Out of range float values are not JSON compliant"),
        (partial(no_json, most=None), "'most': it has no type"),
        (unknown_type, "plan: its signature cannot be read: name 'Decimal' is not defined"),
        (3, "3 is not a callable object"),
    ],
)
def test_what_cannot_be_sent_is_told_at_start_up(function, words):
    with pytest.raises(RegistryError, match=words):
        signature(function)


def test_a_default_that_is_no_json_is_told():
    with pytest.raises(RegistryError, match="'least'"):
        model_of(no_json, name="plan", devices=["most"])


@pytest.mark.parametrize("plan", [fly_montage, estimate_montage])
def test_a_flown_montage_has_the_types_and_words_of_a_montage(plan):
    flown, stepped = signature(plan, like=montage), signature(montage)
    assert flown.positional == ("sequencer", *stepped.positional)
    assert flown.roles == {"sequencer": "device", **stepped.roles}
    properties = dict(flown.parameters["properties"])
    assert properties.pop("sequencer")["default"] == "sequencer"
    assert properties == stepped.parameters["properties"]
    with pytest.raises(RegistryError, match="its type .* cannot be sent"):
        signature(plan)


def test_defaults_of_the_configuration_stand_in():
    made = signature(montage, defaults={"overlap": 21.0, "image_shift": ImageShift(rotation=5)})
    properties = made.parameters["properties"]
    assert properties["overlap"]["default"] == 21.0
    assert properties["image_shift"]["default"]["rotation"] == 5.0
    assert made.parameters["required"] == ["roi"]


def test_what_wraps_a_plan_has_its_signature():
    @wraps(montage)
    def wrapped(*args, **kwargs):
        pass

    assert signature(wrapped).parameters == signature(montage).parameters
    bound = signature(partial(montage, overlap=20.0))
    assert bound.parameters["properties"]["overlap"]["default"] == 20.0
    assert bound.doc == "Cover a region of interest with overlapping tiles."


def test_a_method_has_no_self():
    class Desk:
        async def hold(self, reason: str = "") -> str:
            """Hold all,
            for a reason.

            More.
            """
            return reason

    for function in (Desk.hold, Desk().hold):
        made = model_of(function, name="hold")
        assert made.positional == ("reason",)
        assert made.doc == "Hold all, for a reason."


def test_the_schema_is_one_and_says_what_the_docstrings_say():
    def plan(camera: Any, spot: Spot, exposure: float = 0.1, sample: str | None = None):
        """Do.

        Parameters
        ----------
        camera : device
        spot : Spot
            Where to look,
            and how.
        exposure : float
            In s.
        """

    schema = signature(plan).parameters
    Draft202012Validator.check_schema(schema)
    assert {name: one["description"] for name, one in schema["properties"].items()} == {
        "camera": "Name of a device.",
        "spot": "Where to look, and how.",
        "exposure": "In s.",
        "sample": "Name of the sample, or what is known of it.",
    }
    assert schema["additionalProperties"] is False
    spot = schema["$defs"]["Spot"]
    assert spot["description"] == "A spot."
    assert spot["properties"]["size"] == {"description": "In nm.", "type": "number"}
