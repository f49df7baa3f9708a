"""The registry of what clients may command: our plans, a site's, and what is said when one errs."""

from __future__ import annotations

import json
import sys
from importlib import invalidate_caches
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from bluesky import Msg
from bluesky import plan_stubs as bps
from bluesky.utils import plan as bluesky_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import Field

from config import Config, load
from plans import QualityGate
from processing.geometry import ImageShift, Region
from services.resume import ResumeError
from services.supervisor.commands import MAX_REASON, CommandRefusedError
from services.supervisor.plan_list import PLANS, Resources
from services.supervisor.registry import Entry, Registry, RegistryError, plan_registry
from tests.devices.conftest import lab, session, shared_lab
from tests.devices.lab import Lab, Session, check_documents

__all__ = ["lab", "session", "shared_lab"]

ROI = {"centre": [0, 0], "width": 0.7, "height": 0.7}  # µm; 2 × 2 tiles of the small camera
MINIMAL: dict[str, dict[str, Any]] = {
    "montage": {"roi": ROI},
    "fly_montage": {"roi": ROI},
    "estimate_montage": {"roi": ROI},
    "lens_correction": {"centre": [120, -40]},
    "resume_montage": {"run": "0b5ae7a4-8b1c-4f0c-a8c4-5d2b1b3f2c11"},
}
UNITS = {
    "min_overlap": "µm",
    "overlap": "percent",
    "exposure": "In s",
    "settle": "Seconds",
    "focus_range": "µm",
    "pitch": "µm",
    "roi": "µm",
    "centre": "µm",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("registry")
    return load(environ={"TEMLINE_DATA__FOLDER": str(folder)}).config


@pytest.fixture(scope="module")
def registry(config: Config) -> Registry:
    return plan_registry(config)


def resources(config: Config, devices: Any = None, **more: Any) -> Resources:
    def no_catalog() -> Any:
        raise AssertionError("Tiled is not to be asked")

    if devices is None:
        devices = {name: SimpleNamespace(name=name, connected=True) for name in config.devices}
    return Resources(
        **{"config": config, "gate": None, "catalog": no_catalog, **more}, devices=devices
    )


def entry(function: Any, config: Config) -> Entry:
    return Entry.plan(function.__name__, function, config)


def refusal(entry: Entry, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CommandRefusedError) as caught:
        entry.bind(list(args), kwargs)
    return caught.value.reason


# Our plans


def test_every_plan_is_offered(registry: Registry):
    assert registry.problems == {}
    assert list(registry) == sorted(name for name, _ in PLANS)
    assert len(registry) == len(PLANS)
    assert "snap" in registry
    assert registry["snap"].doc == "Take one frame where the stage is."


@pytest.mark.parametrize("name", [name for name, _ in PLANS])
def test_every_plan_takes_the_arguments_that_it_needs(registry: Registry, name: str):
    plan = registry.get(name, "plan")
    arguments = MINIMAL.get(name, {})
    assert plan.bind([], arguments) == arguments
    if arguments:
        (missing,) = arguments
        assert refusal(plan).startswith(f"{name}: {missing} is missing: ")
    schema = plan.schema()["parameters"]
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(arguments)


def test_every_parameter_has_words_and_units(registry: Registry):
    for plan in registry.schema()["plans"]:
        assert plan["doc"].endswith(".")
        for name, parameter in plan["parameters"].get("properties", {}).items():
            assert parameter["description"], f"{plan['name']}: {name}"
            assert UNITS.get(name, "") in parameter["description"], f"{plan['name']}: {name}"


def test_the_text_is_compact_json_of_all(registry: Registry):
    text = registry.text()
    assert json.loads(text) == registry.schema()
    assert [one["name"] for one in registry.schema()["plans"]] == sorted(registry)
    assert len(text.encode()) < 64 * 1024


def test_schema_and_refusals_agree(registry: Registry):
    schema = Draft202012Validator(registry["montage"].schema()["parameters"])
    for arguments in (
        {},
        {"roi": ROI, "overlap": "12"},
        {"roi": ROI, "overlp": 12},
        {"roi": ROI, "camera": "laser"},
        {"roi": {"centre": [0, 0], "width": -1, "height": 1}},
        {"roi": ROI, "focus": "rows"},
        {"roi": ROI, "image_shift": {"rotatoin": 1}},
    ):
        assert not schema.is_valid(arguments)
        refusal(registry["montage"], **arguments)


def test_the_defaults_of_a_montage_are_the_configurations(registry: Registry, config: Config):
    for name in ("montage", "fly_montage", "estimate_montage"):
        properties = registry[name].schema()["parameters"]["properties"]
        for key, value in config.montage.model_dump().items():
            assert properties[key]["default"] == value
    for name in ("brightfield", "darkfield"):
        properties = registry[name].schema()["parameters"]["properties"]
        assert properties["frames"]["default"] == config.references.frames
        assert properties["exposure"]["default"] == config.montage.exposure


def test_a_plan_whose_device_is_not_configured_is_left_out(config: Config):
    devices = {name: one for name, one in config.devices.items() if name != "sequencer"}
    registry = plan_registry(config.model_copy(update={"devices": devices}))
    assert registry.problems.keys() == {"fly_montage", "estimate_montage"}
    assert (
        "parameter 'sequencer': it has no type and is no device" in registry.problems["fly_montage"]
    )
    assert "montage" in registry


# What a client sends


def test_arguments_come_by_place_or_by_name(registry: Registry):
    plan = registry["montage"]
    by_name = {"camera": "camera", "stage": "stage", "scope": "scope", "roi": ROI, "overlap": 12}
    assert plan.bind(["camera", "stage", "scope", ROI], {"overlap": 12}) == by_name
    assert plan.bind([], by_name) == by_name
    assert list(plan.bind(["camera"], {"overlap": 12, "roi": ROI})) == ["camera", "overlap", "roi"]


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ([], {"overlp": 12}, "montage: unknown argument 'overlp'; do you mean 'overlap'?"),
        ([], {"xyz": 1}, "montage: unknown argument 'xyz'; it takes camera, stage, scope, roi, "),
        ([], {}, "montage: roi is missing: What to cover: "),
        ([], {"overlap": "12"}, 'montage: overlap is "12": it must be a valid number'),
        ([], {"overlap": None}, "montage: overlap is null: it must be a valid number"),
        (
            [],
            {"focus": "rows"},
            "montage: focus is \"rows\": it must be 'none', 'once', 'row', 'plane' or 'surface' "
            "or a valid integer",
        ),
        ([], {"sample": 3}, "montage: sample is 3: it must be a valid string or an object"),
        (
            [],
            {"camera": "laser"},
            "montage: camera is \"laser\": it must be 'scope', 'stage', 'aperture', 'camera' or ",
        ),
        (
            [],
            {"roi": {"center": [0, 0]}},
            'montage: roi is {"center": [0, 0]}: it must be an object with vertices, or with '
            "centre, width, height and, if it is turned, angle",
        ),
        ([], {"roi": {"centre": [0, 0], "width": 3}}, "montage: roi.height is missing: it must "),
        ([], {"roi": {**ROI, "centre": [0]}}, "montage: roi.centre.1 is missing"),
        ([], {"roi": {**ROI, "with": 3}}, "montage: roi.with is unknown: leave it out"),
        ([], {"roi": {**ROI, "width": -1}}, "montage: roi.width is -1: it must be greater than 0"),
        (
            [],
            {"roi": {"vertices": [[0, 0], [2, 2], [2, 0], [0, 1]]}},
            'montage: roi is {"vertices": [[0, 0], [2, 2], [2, 0], [0, 1]]}: vertices make edges '
            "that cross; list the corners in order",
        ),
        ([], {"taken": [1, "2"]}, 'montage: taken.1 is "2": it must be a valid integer'),
        (
            [],
            {"image_shift": {"scale": 0}},
            'montage: image_shift is {"scale": 0}: scale is 0.0; it must be positive and finite',
        ),
        ([], {"gate": "mine"}, 'montage: gate is "mine": it must be a valid boolean'),
        (
            [1, 2, 3, 4, 5],
            {},
            "montage: 5 arguments by place; at most 4 can be given so: camera, stage, scope, roi",
        ),
        (
            ["camera"],
            {"camera": "camera"},
            "montage: argument 'camera' is given twice, in args and in kwargs",
        ),
        ([], {"md": {"a": float("inf")}}, "montage: the arguments are no JSON: Out of range"),
        ([], {"sample": "\ud800"}, "montage: the arguments are no JSON: Invalid JSON: "),
        ([], {"\ud800": 1}, r"montage: unknown argument '\ud800'; it takes "),
        ([], {"x" * 1000: 1}, "montage: unknown argument 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(registry: Registry, args, kwargs, reason):
    rest = {} if "roi" in kwargs or "roi is missing" in reason or len(args) > 3 else {"roi": ROI}
    said = refusal(registry["montage"], *args, **rest, **kwargs)
    assert said.startswith(reason)
    assert len(said.encode()) <= 2 * MAX_REASON


def test_many_mistakes_are_counted(registry: Registry):
    said = refusal(registry["montage"], overlap="a", settle="b", block="c", retakes="d")
    assert said.count("it must be") == 2
    assert said.endswith("(and 2 more)")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.integers(-(10**7), 10**7) | st.floats(allow_nan=False) | st.just(10**400)
POINTS = st.lists(NUMBERS, min_size=1, max_size=3)
ROIS = (
    st.fixed_dictionaries({"vertices": st.lists(POINTS, max_size=6)})
    | st.fixed_dictionaries(
        {"centre": POINTS, "width": NUMBERS, "height": NUMBERS}, optional={"angle": NUMBERS}
    )
    | JSON
)
MONTAGE = [name for name in MINIMAL if "montage" in name]


@settings(deadline=None)
@given(
    args=st.lists(JSON, max_size=4),
    kwargs=st.fixed_dictionaries(
        {},
        optional={
            "roi": ROIS,
            "camera": st.sampled_from(["camera", "stage", "laser"]),
            "overlap": NUMBERS,
            "image_shift": st.dictionaries(
                st.sampled_from(["rotation", "scale", "most_shift", "x"]), NUMBERS
            ),
            "focus": st.integers() | st.sampled_from(["row", "rows"]) | JSON,
            "taken": st.lists(st.integers()),
            "references": st.dictionaries(st.text(), st.none() | st.text()) | JSON,
            "sample": JSON,
            "md": st.dictionaries(st.text(), JSON),
            "centre": POINTS,
        },
    )
    | st.dictionaries(st.text(), JSON),
    name=st.sampled_from([name for name, _ in PLANS]),
)
def test_whatever_comes_is_bound_or_refused(registry: Registry, args, kwargs, name):
    plan = registry[name]
    known = plan.signature.model.model_fields
    for given_ in (kwargs, {key: value for key, value in kwargs.items() if key in known}):
        try:
            bound = plan.bind(args, given_)
        except CommandRefusedError as error:
            assert error.reason.startswith(f"{name}: ")  # noqa: PT017
            error.reason.encode()
        else:
            assert plan.bind([], json.loads(json.dumps(bound))) == bound
            assert bound.keys() <= known.keys()
            plan.values(bound)


# Names


def test_an_unknown_name_gets_the_nearest(registry: Registry):
    with pytest.raises(CommandRefusedError, match="no plan 'montge'; do you mean 'montage'?"):
        registry.get("montge", "plan")
    with pytest.raises(CommandRefusedError, match="no command 'exit'; there are autofocus, bright"):
        registry.get("exit")
    assert registry.get("montage").kind == "plan"


def test_plans_and_actions_are_told_apart(config: Config):
    class Desk:
        def abort(
            self, reason: str = "", deadline: Annotated[float, Field(gt=0)] | None = None
        ) -> str:
            """End the plan that runs.

            Parameters
            ----------
            reason : str
                Why.
            deadline : float
                In s.
            """
            return f"{reason} {deadline}"

    registry = plan_registry(config)
    registry.add(Entry.action(Desk.abort))
    registry.add(Entry.action(Desk().abort, name="stop"))
    abort = registry.get("abort", "action")
    assert abort.bind(["why"], {}) == {"reason": "why"}
    assert abort.values({"deadline": 3}) == {"reason": "", "deadline": 3.0}
    stop = registry["stop"]
    assert stop.call(**stop.values({"reason": "so"})) == "so None"
    assert refusal(abort, deadline=0).startswith("abort: deadline is 0: it must be greater than 0")
    schema = registry.schema()
    assert [one["name"] for one in schema["actions"]] == ["abort", "stop"]
    assert schema["actions"][0]["kind"] == "action"
    with pytest.raises(CommandRefusedError, match="^abort is an action: write it to Immediate$"):
        registry.get("abort", "plan")
    with pytest.raises(CommandRefusedError, match="^montage is a plan: write it to Command$"):
        registry.get("montage", "action")
    with pytest.raises(RegistryError, match="snap is the name of another plan; choose another"):
        registry.add(Entry.action(Desk.abort, name="snap"))
    with pytest.raises(RegistryError, match="'a b' is no name for a command"):
        registry.add(Entry.action(Desk.abort, name="a b"))


# What a plan gets


def keeps(
    resources: Resources,
    scope: Any,
    seconds: float,
    roi: Region | None = None,
    *,
    stage: Any = None,
    into: Path | None = None,
    gate: QualityGate | None = None,
    shift: ImageShift | None = None,
    md: dict[str, Any] | None = None,
):
    """Keep what it gets."""
    yield Msg("null", None, dict(locals()))


def test_a_plan_gets_what_it_wants(config: Config):
    plan = entry(keeps, config)
    arguments = plan.bind(
        [],
        {
            "seconds": 1,
            "scope": "stage",
            "into": "GU-1/notes.txt",
            "roi": ROI,
            "shift": {"scale": 2},
            "md": {"a": 1, "b": 1},
        },
    )
    have = resources(config, gate=object())
    got = next(plan.plan_of(arguments, have, md={"b": 2})).args[0]
    assert got == {
        "resources": have,
        "scope": have.devices["stage"],
        "seconds": 1.0,
        "roi": Region.rectangle((0, 0), 0.7, 0.7),
        "stage": None,
        "into": config.data.folder.absolute() / "GU-1" / "notes.txt",
        "gate": have.gate,
        "shift": ImageShift(scale=2),
        "md": {"a": 1, "b": 2},
    }
    assert next(plan.plan_of({"seconds": 1, "gate": False}, have)).args[0]["gate"] is None
    assert next(plan.plan_of({"seconds": 1}, resources(config))).args[0]["gate"] is None
    with pytest.raises(CommandRefusedError, match="keeps: seconds is missing"):
        plan.plan_of({}, have)


def test_a_device_that_is_not_there_is_named(config: Config):
    plan = entry(keeps, config)
    with pytest.raises(CommandRefusedError, match="the device scope is not there; there are stage"):
        plan.plan_of({"seconds": 1}, resources(config, {"stage": object()}))

    def wait(timeout: float) -> None:
        raise TimeoutError("no answer from TEM:SCOPE:Blank")

    away = {"scope": SimpleNamespace(connected=False, wait_for_connection=wait)}
    with pytest.raises(CommandRefusedError, match="the device scope is not connected: no answer"):
        plan.plan_of({"seconds": 1}, resources(config, away))


def test_metadata_reach_every_run_of_a_plan_without_md(config: Config):
    @bluesky_plan
    def two_runs(scope: Any):
        uids = []
        for sample in ("a", "b"):
            uids.append((yield from bps.open_run({"sample": sample, "proposal": "mine"})))
            yield from bps.close_run()
        return uids

    session = Session()
    plan = entry(two_runs, config).plan_of({}, resources(config), {"proposal": "GU-1"})
    uids = session(plan)
    starts = [doc for name, doc in session.documents if name == "start"]
    assert [(one["uid"], one["sample"], one["proposal"]) for one in starts] == [
        (uids[0], "a", "GU-1"),
        (uids[1], "b", "GU-1"),
    ]


def test_what_gives_no_messages_is_no_plan(config: Config):
    def forgets(scope: Any):
        keeps(None, scope, 1.0)  # type: ignore[arg-type]

    with pytest.raises(RegistryError, match="forgets gave None; a plan gives messages"):
        entry(forgets, config).plan_of({}, resources(config))


def test_a_run_to_resume_is_looked_up_before_the_plan_begins(registry: Registry, config: Config):
    class Run:
        metadata = {"start": {"uid": "abc", "plan_name": "snap"}}  # noqa: RUF012

    have = resources(config, catalog=lambda: {"abc": Run()})
    plan = registry["resume_montage"]
    with pytest.raises(ResumeError, match="Tiled has no run abd"):
        plan.plan_of({"run": "abd"}, have)
    with pytest.raises(ResumeError, match="run abc is 'snap'; only montage, fly_montage"):
        next(plan.plan_of({"run": "abc"}, have, md={"request": {}}))
    assert 'run is "a/b": String should match' in refusal(plan, "a/b")


# A site's own plans

SITE = '''
"""Plans of a site."""

import sys
from typing import Any, Literal

from bluesky import plan_stubs as bps


def warm_up(scope: Any, seconds: float, mode: Literal["soft", "hard"] = "soft"):
    """Wait for the beam to settle.

    Parameters
    ----------
    scope : device
    seconds : float
        How long, in s.
    mode : {"soft", "hard"}
    """
    yield from bps.sleep(seconds)


def loose(*positions):
    yield from bps.null()


NOT_A_PLAN = 3
'''
ENTRY_POINTS = """
[temline.plans]
warm_up = {module}:warm_up
montage = {module}:warm_up
loose = {module}:loose
number = {module}:NOT_A_PLAN
nothing = {module}:no_such_plan
absent = {module}_not_there:plan
leaves = {module}_leaves:plan
a-b = {module}:warm_up
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A distribution with entry points, as pip would install it."""
    module = "site_plans_of_a_test"
    info = tmp_path / "site_plans-1.0.dist-info"
    info.mkdir()
    (tmp_path / f"{module}.py").write_text(SITE)
    (tmp_path / f"{module}_leaves.py").write_text("import sys\nsys.exit('no licence')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: site-plans\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS.format(module=module))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    invalidate_caches()
    yield
    sys.modules.pop(module, None)


@pytest.mark.usefixtures("site")
def test_a_site_adds_plans_by_entry_points(config: Config, caplog: pytest.LogCaptureFixture):
    registry = plan_registry(config)
    assert {*registry} == {*(name for name, _ in PLANS), "warm_up"}
    plan = registry.get("warm_up", "plan")
    assert plan.bind([], {"seconds": 2}) == {"seconds": 2}
    assert refusal(plan, seconds=1, mode="harsh").startswith(
        "warm_up: mode is \"harsh\": it must be 'soft' or 'hard'"
    )
    (message, *_) = plan.plan_of({"seconds": 2}, resources(config))
    assert (message.command, message.args) == ("sleep", (2.0,))
    assert registry["montage"].doc.startswith("Cover a region")

    words = {
        "montage": "montage is the name of another plan; choose another",
        "loose": "parameter 'positions': it is variadic positional",
        "number": "number: its signature cannot be read: 3 is not a callable object",
        "nothing": "nothing: AttributeError: module 'site_plans_of_a_test' has no attribute 'no_",
        "absent": "absent: ModuleNotFoundError: No module named 'site_plans_of_a_test_not_there'",
        "leaves": "leaves: SystemExit: no licence",
        "a-b": "'a-b' is no name for a command",
    }
    assert registry.problems.keys() == words.keys()
    for name, expected in words.items():
        assert expected in registry.problems[name]
        assert registry.problems[name] in caplog.text


# On an instrument


def test_commands_run_on_an_instrument(registry: Registry, config: Config, lab: Lab):
    have = resources(config, {device.name: device for device in lab.devices})

    def run(name: str, **arguments: Any) -> tuple[Any, Session]:
        plan, session = registry.get(name, "plan"), Session()
        made = plan.plan_of(plan.bind([], arguments), have, md={"request": {"id": "r1"}})
        result = session(made)
        check_documents(session.documents)
        for start in (doc for kind, doc in session.documents if kind == "start"):
            assert start["request"] == {"id": "r1"}
        return result, session

    snapshot, session = run("snap", exposure=0.05, sample="S1")
    assert snapshot.uid == session.one("start")["uid"]
    assert session.one("start")["sample"] == "S1"

    taken, session = run("montage", roi=ROI, settle=0, exposure=0.05, image_shift={})
    start = session.one("start")
    assert taken.tiles == start["montage"]["n_tiles"] == 4
    assert start["plan_args"]["overlap"] == config.montage.overlap

    seconds, _ = run("estimate_montage", roi=ROI, settle=0, exposure=0.05)
    assert 0.2 < seconds < 60
    flown, _ = run("fly_montage", roi=ROI, settle=0, exposure=0.05)
    assert flown.tiles == 4

    uids, session = run("references")
    starts = [doc for kind, doc in session.documents if kind == "start"]
    assert [start["uid"] for start in starts] == [uids["dark"], uids["bright"]]
    assert {start["num_points"] for start in starts} == {config.references.frames}
    run("make_safe")
    assert lab.is_safe()
