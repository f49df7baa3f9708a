"""The chain: which steps it is made of, what they say of themselves, and that they do it."""

from __future__ import annotations

import pickle
import threading
from importlib.metadata import EntryPoint

import cv2
import numpy as np
import pytest

from processing import chain as chains
from processing.chain import (
    BUILT_IN,
    DEFAULT_STEPS,
    Chain,
    Figure,
    Step,
    StepError,
    StepSettings,
    TileState,
    make_chain,
    thread_buffers,
)
from processing.flatfield import References
from processing.geometry import FrameGeometry
from processing.lens import LensModel, lens_map

GEOMETRY = FrameGeometry(4.0, angle=20.0)
SIDES = ("top", "bottom", "left", "right")


def counts(shape, seed=1):
    """A texture with noise, as a camera of 16 bits gives it."""
    random = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(random.standard_normal(shape), (0, 0), 3)
    mean = 3000 + 800 * texture / texture.std()
    return random.poisson(np.clip(mean, 0, None)).astype(np.uint16)


def references(shape, seed=2):
    random = np.random.default_rng(seed)
    dark = random.normal(100, 3, shape).astype(np.float32)
    gain = random.normal(1, 0.05, shape).astype(np.float32)
    return References(dark, gain, random.random(shape) < 1e-3)


def steps(*names):
    return [StepSettings(name) for name in names]


def run(chain, raw, **more):
    tile = TileState(raw, more.pop("geometry", GEOMETRY), **more)
    chain(tile)
    return tile


# What a chain says of itself


@pytest.mark.parametrize("shape", [(256, 256), (256, 384), (515, 301)])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_all_steps_make_what_they_say(shape, dtype):
    chain = make_chain(DEFAULT_STEPS)
    raw = counts(shape) if dtype == np.uint16 else (counts(shape) // 32).astype(np.uint8)
    tile = run(
        chain,
        raw,
        references=references(shape),
        reference_age=1.0,
        lens=lens_map(LensModel.none(shape)),
        widths=dict.fromkeys(SIDES, 80.0),
    )
    assert list(tile.figures) == list(chain.figures)
    for name, figure in chain.figures.items():
        kinds = {"number": float, "integer": int, "boolean": bool}
        assert isinstance(tile.figures[name], kinds[figure.kind] | np.generic), name
    assert set(tile.arrays) == set(chain.arrays(shape))
    for name, spec in chain.arrays(shape).items():
        assert (tile.arrays[name].shape, tile.arrays[name].dtype) == (spec.shape, spec.dtype), name
        assert tile.arrays[name].any(), name
    assert (tile.image.shape, tile.image.dtype) == (shape, np.uint16)
    assert set(tile.edges) == set(SIDES)


def test_sizes_of_the_pictures():
    arrays = make_chain(DEFAULT_STEPS).arrays((3840, 5120))
    assert arrays["preview"].shape == (384, 512)
    assert arrays["mini"].shape == (115, 154)
    assert [arrays[f"level_{n}"].shape for n in (1, 2, 3)] == [
        (1920, 2560),
        (960, 1280),
        (480, 640),
    ]
    assert arrays["level_1"].nbytes == 2 * 1920 * 2560


def test_settings_are_small_to_send_and_one_chain_serves_all():
    sent = pickle.loads(pickle.dumps(DEFAULT_STEPS))
    assert sent == DEFAULT_STEPS
    assert make_chain(sent) is make_chain(DEFAULT_STEPS)
    assert len(pickle.dumps(DEFAULT_STEPS)) < 1000


# Which steps


@pytest.mark.parametrize("missing", BUILT_IN)
def test_each_step_can_be_left_out_or_says_who_needs_it(missing):
    wanted = [name for name in BUILT_IN if name != missing]
    needed = {"statistics": "equalise", "pyramid": "equalise", "equalise": "preview"}
    if missing in needed:
        with pytest.raises(StepError, match=f"the step {needed[missing]} needs .*: put {missing}"):
            make_chain(steps(*wanted))
    else:
        tile = run(make_chain(steps(*wanted)), counts((256, 256)))
        assert tile.image.any()


def test_an_unknown_step_is_told_with_the_nearest():
    with pytest.raises(StepError, match="no step 'flatfield'; did you mean flat_field?"):
        make_chain(steps("flatfield"))
    with pytest.raises(StepError, match="there are flip, flat_field"):
        make_chain(steps("zzzz"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (steps("statistics", "statistics"), "comes twice"),
        (steps("equalise", "statistics", "pyramid"), "equalise needs p01, p99, level_2"),
        ([StepSettings("statistics", (("bits", 12),))], "statistics cannot be made.*bits"),
        ([StepSettings("statistics", (("bit_depth", 4),))], "between 8 and 16"),
        ([StepSettings("flat_field", (("max_age", 0.0),))], "must be positive"),
        ([StepSettings("pyramid", (("levels", 0),))], "between 1 and 8"),
        (
            [*steps("statistics", "pyramid", "equalise"), StepSettings("mini", (("scale", 0.5),))],
            "between 0 and 0.25",
        ),
    ],
)
def test_a_chain_that_cannot_be_is_refused_when_it_is_made(settings, says):
    with pytest.raises(StepError, match=says):
        make_chain(settings)


class Inverse(Step):
    """A site's own step."""

    figures = {"brightest": Figure("counts", 0)}  # noqa: RUF012
    needs = ("maximum",)
    corrects = True

    def __init__(self, top: int = 65535) -> None:
        self.top = top

    def __call__(self, tile):
        tile.image = self.top - tile.image
        tile.figures["brightest"] = float(tile.image.max())


class NoStep:
    """What a site may name by mistake."""


@pytest.fixture
def site(monkeypatch):
    points = [
        EntryPoint("inverse", f"{__name__}:Inverse", "temline.steps"),
        EntryPoint("nothing", f"{__name__}:NoStep", "temline.steps"),
    ]
    monkeypatch.setattr(chains, "entry_points", lambda group: points)
    monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.value.split(":")[1]])
    chains._make_chain.cache_clear()
    yield
    chains._make_chain.cache_clear()


@pytest.mark.usefixtures("site")
def test_a_site_adds_a_step_of_its_own():
    chain = make_chain(
        [*steps("statistics"), StepSettings("inverse", (("top", 60000),)), *steps("pyramid")]
    )
    raw = counts((256, 256))
    tile = run(chain, raw)
    np.testing.assert_array_equal(tile.image, 60000 - raw)
    assert tile.figures["brightest"] == 60000 - raw.min()
    assert tile.arrays["level_3"].min() > 50000
    assert list(chain.corrections.steps) == ["statistics", "inverse"]
    with pytest.raises(StepError, match="inverse needs maximum.*put statistics"):
        make_chain(steps("inverse"))
    with pytest.raises(StepError, match="no step 'invers'; did you mean inverse?"):
        make_chain(steps("invers"))
    with pytest.raises(StepError, match="NoStep; it must derive"):
        make_chain(steps("nothing"))


def test_two_steps_that_make_the_same_are_refused():
    one = make_chain(steps("statistics")).steps["statistics"]
    with pytest.raises(StepError, match="a and b both make mean"):
        Chain({"a": one, "b": one})


# What the steps do


def test_flat_field_and_statistics_agree_with_each_other():
    """The counts that the flat field makes on its way are those of its result."""
    raw = counts((256, 384))
    tile = run(make_chain(steps("flat_field", "statistics")), raw, references=references(raw.shape))
    assert (tile.counts == np.bincount(tile.image.ravel(), minlength=65536)).all()
    assert tile.figures["mean"] == pytest.approx(tile.image.mean())
    assert tile.figures["std"] == pytest.approx(tile.image.std())
    assert tile.arrays["histogram"].sum() == raw.size


def test_saturated_and_dead_pixels_are_those_of_the_camera():
    """After the flat field a saturated pixel may have any value."""
    raw = counts((256, 256))
    raw[:4], raw[4:6] = 4095, 0
    raw[raw > 4095] = 4094
    settings = [*steps("flat_field"), StepSettings("statistics", (("bit_depth", 12),))]
    tile = run(make_chain(settings), raw, references=references(raw.shape))
    assert tile.figures["saturated"] == (raw >= 4095).mean() >= 4 / 256
    assert tile.figures["dead"] == (raw == 0).mean() >= 2 / 256


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_flipping_comes_to_the_same_before_or_after_the_flat_field(rows, columns):
    raw, made = counts((256, 384)), references((256, 384))
    turn = np.s_[:: -1 if rows else 1, :: -1 if columns else 1]
    chain = make_chain(steps("flip", "flat_field"))
    geometry = FrameGeometry(4.0, 20.0, flip_columns=columns, flip_rows=rows)
    plain = run(chain, raw, references=made).image.copy()
    flipped = run(chain, np.ascontiguousarray(raw[turn]), references=made, geometry=geometry)
    assert flipped.geometry == chain.geometry(geometry) == GEOMETRY
    turned = References(made.dark[turn], made.gain[turn], made.bad[turn])
    expected = run(make_chain(steps("flat_field")), raw, references=turned).image
    np.testing.assert_array_equal(flipped.image, expected)
    assert not np.array_equal(flipped.image, plain)


def test_a_place_on_the_stage_does_not_move_when_a_tile_is_flipped():
    shape = (256, 384)
    camera = FrameGeometry(4.0, 20.0, flip_columns=True, flip_rows=True)
    raw = np.zeros(shape, np.uint16)
    raw[40, 300] = 9
    before = camera.pixel_to_stage([40, 300], shape, (5.0, 6.0))
    tile = run(make_chain(steps("flip")), raw, geometry=camera)
    place = np.argwhere(tile.image == 9)[0]
    np.testing.assert_allclose(tile.geometry.pixel_to_stage(place, shape, (5.0, 6.0)), before)


@pytest.mark.parametrize(
    ("age", "stale"), [(0.5, False), (23.9, False), (24.1, True), (float("nan"), False)]
)
def test_old_references_are_told_not_refused(age, stale):
    raw = counts((256, 256))
    chain = make_chain(steps("flat_field"))
    tile = run(chain, raw, references=references(raw.shape), reference_age=age)
    assert tile.figures["reference_stale"] == stale
    assert tile.figures["reference_age"] == pytest.approx(age, nan_ok=True)
    assert not np.array_equal(tile.image, raw)


def test_references_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"frame is \(256, 256\) px and the references"):
        run(make_chain(DEFAULT_STEPS), counts((256, 256)), references=references((256, 384)))


def test_the_picture_shows_specimen_that_hardly_differs_from_its_surround():
    """What equalising is for: faint detail beside bright and dark areas, all to be seen."""
    raw = counts((512, 512)) // 8 + 2000
    raw[:, :256] += 3000
    tile = run(make_chain(steps("statistics", "pyramid", "equalise")), raw)
    assert tile.equalised.shape == (128, 128)
    level = tile.arrays["level_2"]
    plain = level * (255 / np.ptp(level))
    for half in (np.s_[:, 8:56], np.s_[:, 72:120]):
        assert tile.equalised[half].std() > 1.3 * plain[half].std()


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (np.zeros((256, 256), np.float32), TypeError),
        (np.zeros((2, 256, 256), np.uint16), ValueError),
    ],
)
def test_what_is_no_frame_is_refused(raw, error):
    with pytest.raises(error, match="frame"):
        TileState(raw, GEOMETRY)


# Memory


def test_a_thread_uses_its_arrays_again_and_no_other_threads():
    chain = make_chain(DEFAULT_STEPS)
    made = references((256, 256))

    def work(seed, into):
        into.append(run(chain, counts((256, 256), seed), references=made))

    mine, others = [], []
    work(1, mine)
    kept = mine[0].image.copy()
    thread = threading.Thread(target=work, args=(2, others))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(mine[0].image, kept)
    work(3, mine)
    assert np.shares_memory(mine[0].image, mine[1].image)
    assert not np.shares_memory(mine[0].image, others[0].image)


def test_a_buffer_is_made_anew_for_another_shape_or_type():
    buffers = thread_buffers()
    first = buffers.get("test", (4, 4), np.uint16)
    assert buffers.get("test", (4, 4), "<u2") is first
    assert buffers.get("test", (4, 5), np.uint16).shape == (4, 5)
    assert buffers.get("test", (4, 5), np.uint8).dtype == np.uint8
