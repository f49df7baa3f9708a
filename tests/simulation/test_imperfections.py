"""The real world: each imperfection is as strong as is set, has a switch, and is in the truth."""

import json

import numpy as np
import pytest

from simulation import CONDITIONS, FrameTruth, MicroscopeSettings, VirtualMicroscope
from simulation.distortion import Distortion
from simulation.light import UnevenLight
from simulation.settings import UnevenLightSettings
from tests.simulation.instrument import (
    EMPTY,
    Formula,
    ManualClock,
    dots,
    find_dot,
    go,
    quiet,
    snap,
)

LATTICE = 0.3 * np.stack(np.meshgrid(np.arange(-5, 6), np.arange(-5, 6)), -1).reshape(-1, 2)
GRAIN = Formula(lambda x, y: 0.6 + 0.2 * np.sin(40 * x + 3 * np.sin(7 * y)) * np.cos(30 * y))
EVERYTHING = {name: {"enabled": True} for name in CONDITIONS}
SENSOR = (384, 384)


def imperfect(specimen=EMPTY, clock=None, *, seed=1, sensor=(256, 256), column=None, **strengths):
    """An ideal microscope but for these imperfections; True is their usual strength."""
    imperfections = {
        name: {"enabled": True, **({} if strength is True else strength)}
        for name, strength in strengths.items()
    }
    return quiet(
        specimen,
        clock,
        seed=seed,
        camera={"sensor": list(sensor)},
        column=column or {},
        imperfections=imperfections,
    )


USUAL_DOSE = {
    "column": {"gun_current": 47.0}, "camera": {"counts_per_electron": 8.0, "sensor": [256, 256]},
}  # fmt: skip


# -- the two worlds -------------------------------------------------------------------------------


def test_nothing_is_enabled_in_the_kind_world_and_everything_in_the_real_one():
    kind, real = MicroscopeSettings.kind(), MicroscopeSettings.real()
    assert kind == MicroscopeSettings()
    assert VirtualMicroscope(kind).conditions.active() == {}
    assert set(VirtualMicroscope(real).conditions.active()) == set(CONDITIONS)
    groups = [*vars(real.imperfections).values(), *vars(real.section).values()]
    assert all(group.enabled for group in groups)
    assert MicroscopeSettings.of_world("real") == real
    with pytest.raises(ValueError, match="world is 'cruel'; it must be kind or real"):
        MicroscopeSettings.of_world("cruel")


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_imperfection_can_be_switched_on_and_off_at_run_time(name):
    def frames(switch):
        microscope = quiet(GRAIN, **USUAL_DOSE)
        taken = []
        for number in range(3):
            switch(microscope.conditions, number)
            taken.append(snap(microscope))
        return taken

    plain = frames(lambda conditions, number: None)
    switched = frames(lambda conditions, number: conditions.set(name, on=number == 1))
    np.testing.assert_array_equal(switched[0][0].data, plain[0][0].data)
    assert (switched[1][0].data != plain[1][0].data).any()
    np.testing.assert_array_equal(switched[2][0].data, plain[2][0].data)
    assert [truth.conditions for _, truth in switched] == [(), (name,), ()]


def test_an_imperfection_may_last_for_a_number_of_exposures():
    microscope = quiet(GRAIN)
    microscope.conditions.set("fringes", count=2)
    assert [snap(microscope)[1].conditions for _ in range(3)] == [("fringes",)] * 2 + [()]


def test_frames_depend_on_seed_place_and_history_and_not_on_how_long_things_take():
    taken = []
    for seed, pause in ((1, 0.0), (1, 77.0), (2, 0.0)):
        clock = ManualClock()
        microscope = quiet(GRAIN, clock, seed=seed, imperfections=EVERYTHING)
        for x in (0.0, 3.0, 0.0):
            go(microscope, settle=1.0 + pause, x=x)
            frame, _ = snap(microscope)
        taken.append(frame.data)
    np.testing.assert_array_equal(taken[0], taken[1])
    assert (taken[0] != taken[2]).any()


# -- the truth ------------------------------------------------------------------------------------


def test_the_truth_of_an_imperfect_instrument_is_right_to_a_twentieth_of_a_pixel():
    places = [(10, 10), (17, 10), (17, 3), (-12, -20)]
    wobble = np.random.default_rng(4).uniform(-0.04, 0.04, LATTICE.shape)
    marks = np.concatenate([np.array(place) + LATTICE + wobble for place in places])
    degrees = [30.0, 8.0, 4.0, 1.0, 0.5, 0.5]
    microscope = imperfect(
        dots(marks.tolist(), 0.01),
        sensor=SENSOR,
        lens_field={"degrees": degrees, "fine": 0.1, "fine_pitch": 32},
        magnification_drift=True,
        tile_distortion={"own": 3000.0, "smooth": 5000.0},
        charging={"shift": 20.0, "settling_dose": 30.0},
        dark_corners=True,
    )
    errors, distances = [], []
    for x, y in places:
        go(microscope, x=x, y=y)
        frame, truth = snap(microscope)
        pixels = truth.stage_to_pixel(marks)
        middle = np.abs(pixels - 191.5) < 165
        inside = middle.all(axis=1)
        errors += [find_dot(frame.data, pixel) - pixel for pixel in pixels[inside]]
        ideal = truth.geometry.stage_to_pixel(marks[inside], SENSOR, (truth.x, truth.y))
        distances += np.linalg.norm(ideal - pixels[inside], axis=1).tolist()
    assert len(errors) > 30
    assert np.median(distances) > 3, "without the map it would be far off"
    assert np.abs(np.mean(errors, axis=0)).max() < 0.03
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_the_log_holds_the_whole_truth(tmp_path):
    microscope = quiet(GRAIN, imperfections=EVERYTHING)
    microscope.truth_log = tmp_path / "truth.jsonl"
    snap(microscope, binning=2)
    (line,) = microscope.truth_log.read_text().splitlines()
    read, truth = FrameTruth.from_dict(json.loads(line)), microscope.truth(1)
    pixels = np.random.default_rng(0).uniform(0, 127, (20, 2))
    np.testing.assert_allclose(
        read.pixel_to_stage(pixels), truth.pixel_to_stage(pixels), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(read.stage_to_pixel(read.pixel_to_stage(pixels)), pixels, atol=1e-6)
    np.testing.assert_array_equal(read.mask(), truth.mask())
    np.testing.assert_allclose(read.light, truth.light, atol=1e-4)
    assert (read.conditions, read.faults) == (truth.conditions, truth.faults)
    assert len(line) < 12_000


@pytest.mark.parametrize("binning", [1, 2, 4])
def test_the_mask_tells_which_pixels_have_light(binning):
    microscope = imperfect(dark_corners={"radius": 0.85})
    frame, truth = snap(microscope, binning=binning)
    lit = frame.data > 0.5 * np.median(frame.data)
    assert 0.02 < (~truth.mask()).mean() < 0.2
    assert (lit != truth.mask()).mean() < 5e-3
    microscope.conditions.clear("dark_corners")
    assert snap(microscope)[1].mask().all()


def test_the_light_of_the_truth_is_that_of_the_frame():
    microscope = imperfect(
        uneven_light={"amplitude": 0.1}, column={"beam_spread": 1.6, "beam_falloff": 0.3}
    )
    frame, truth = snap(microscope, 1e-3)
    counts = frame.data.astype(float) - microscope.settings.camera.offset
    place = np.round(np.linspace(0, 255, 9)).astype(int)[1:-1]
    seen = [[counts[r - 4 : r + 5, c - 4 : c + 5].mean() for c in place] for r in place]
    light = truth.light[1:-1, 1:-1]
    ratio = (np.array(seen) / light)[light > 0.3]
    assert ratio.std() / ratio.mean() < 0.01
    assert np.ptp(light) > 0.3
    assert ratio.size > 20


# -- lens field -----------------------------------------------------------------------------------


def test_the_lens_field_has_the_strength_that_is_set_for_each_degree_and_no_affine_part():
    degrees = (5.0, 3.0, 0.0, 2.0, 1.0, 0.5)
    settings = MicroscopeSettings().imperfections.lens_field.updated(
        {"degrees": degrees, "fine": 0.0}
    )
    shape = (300, 400)
    rng = np.random.default_rng(5)
    field = Distortion(np.zeros((2, 4, 4)), shape).with_lens_field(settings, rng)
    rows, columns = np.meshgrid(
        (np.arange(600) + 0.5) / 2 - 0.5, (np.arange(800) + 0.5) / 2 - 0.5, indexing="ij"
    )
    shift = field.shift(rows, columns)
    total = np.sqrt((shift**2).sum(axis=-1).mean())
    assert total == pytest.approx(np.linalg.norm(degrees) * 0.3, rel=0.01)
    design = np.stack([np.ones(rows.size), rows.ravel() - 149.5, columns.ravel() - 199.5], axis=1)
    affine = np.linalg.lstsq(design, shift.reshape(-1, 2), rcond=None)[0]
    assert np.abs(affine * [[1], [150], [200]]).max() < 0.01


def test_the_fine_part_is_irregular_fixed_and_as_strong_as_is_set():
    settings = MicroscopeSettings().imperfections.lens_field.updated(
        {"degrees": (0,) * 6, "fine": 0.2, "fine_pitch": 32}
    )
    make = Distortion(np.zeros((2, 4, 4)), (1024, 1024)).with_lens_field
    field = make(settings, np.random.default_rng(5))
    rows, columns = np.indices((1024, 1024))
    shift = field.shift(rows, columns)
    assert np.sqrt((shift**2).sum(axis=-1).mean()) == pytest.approx(0.2, rel=0.05)
    far = shift[:, 128:] * shift[:, :-128]
    assert abs(far.mean()) < 0.1 * (shift**2).mean()
    again = make(settings, np.random.default_rng(5))
    np.testing.assert_array_equal(again.shift(rows, columns), shift)


def test_the_fine_part_must_fit_the_blocks_that_are_sampled():
    with pytest.raises(ValueError, match="fine_pitch is 40; it must be a multiple of 16 px"):
        MicroscopeSettings.from_mapping({"imperfections": {"lens_field": {"fine_pitch": 40}}})


# -- magnification and the tiles' own maps --------------------------------------------------------


def test_focus_changes_magnification_and_rotation_by_what_is_set():
    marks = [(0.35, 0.0), (-0.35, 0.0)]
    drift = {"per_focus": 5000.0, "rotation_per_focus": 3000.0, "settling": 0.0}
    microscope = imperfect(dots(marks, 0.012), magnification_drift=drift)
    spans = []
    for defocus in (0.0, -2.0):
        microscope.column.set("defocus", defocus)
        frame, truth = snap(microscope)
        spans.append(
            np.subtract(*(find_dot(frame.data, near) for near in truth.stage_to_pixel(marks)))
        )
    in_focus, under = (complex(column, -row) for row, column in spans)
    assert abs(under) / abs(in_focus) == pytest.approx(1 - 2 * 0.005, abs=5e-4)
    assert np.angle(under / in_focus) == pytest.approx(2 * 0.003, abs=5e-4)


def test_magnification_grows_over_the_section_and_settles_with_the_frames():
    drift = {"gradient": [0.0, 100.0], "settling": 2000.0, "settling_frames": 10.0}
    microscope = imperfect(magnification_drift=drift | {"rotation_gradient": [50.0, 0.0]})

    def magnified(x, y, number):
        return 1 / np.sqrt(np.linalg.det(microscope.map_at(x, y, number).warp))

    assert magnified(0, 10, 10**6) == pytest.approx(1 + 1e-3, abs=1e-7)
    assert magnified(0, 0, 10) == pytest.approx(1 + 2e-3 / np.e, abs=1e-7)
    warp = microscope.map_at(20, 0, 10**6).warp
    assert np.arctan2(warp[1, 0], warp[0, 0]) == pytest.approx(1e-3, abs=1e-7)


def test_tiles_have_affine_maps_of_their_own_and_smooth_ones():
    microscope = imperfect(tile_distortion={"own": 200.0, "smooth": 0.0})
    own = np.array([microscope.map_at(0, 0, number).warp - np.eye(2) for number in range(600)])
    assert np.sqrt((own**2).mean()) == pytest.approx(2e-4, rel=0.1)

    microscope = imperfect(tile_distortion={"own": 0.0, "smooth": 900.0})
    places = np.random.default_rng(3).uniform(-4000, 4000, (600, 2))
    smooth = np.array([microscope.map_at(x, y, 1).warp - np.eye(2) for x, y in places])
    assert np.sqrt((smooth**2).mean()) == pytest.approx(9e-4, rel=0.25)
    near = microscope.map_at(places[0, 0] + 15, places[0, 1], 1).warp - np.eye(2)
    assert np.abs(near - smooth[0]).max() < 3e-4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_loops_of_four_tiles_do_not_close_as_those_of_real_montages_do_not(seed):
    """Tiles of 3840² px at 3.85 nm: 0.2 to 0.7 px a loop, of one sign all over the montage."""
    line = {"mode": "M", "magnification": 4000, "pixel_size": 3.85, "rotation": 3.6}
    settings = MicroscopeSettings.real().updated(
        {
            "seed": seed,
            "camera": {"sensor": [3840, 3840]},
            "column": {"magnifications": [line], "magnification": 4000},
            "imperfections": {"lens_field": {"enabled": False}},
        }
    )
    microscope = VirtualMicroscope(settings)
    microscope.column.set("defocus", settings.optics.focus_offset)
    pitch = np.array([0.92 * 3840, 0.92 * 3840])
    grid = np.stack(np.meshgrid(np.arange(0, 60, 6), np.arange(0, 60, 6), indexing="ij"), -1)
    loops = np.array([[_loop(microscope, at, pitch) for at in line] for line in grid])
    columns = loops[..., 1].mean(axis=1)
    assert (np.sign(columns) == np.sign(columns[0])).all()
    assert 0.2 < abs(loops[..., 1].mean()) < 0.9
    assert abs(loops[..., 0].mean()) < 0.4


def _loop(microscope, at, pitch):
    """What the offsets of four neighbours add up to, measured in the middle of their overlaps."""
    geometry = microscope.column.geometry
    corners = [(0, 0), (0, 1), (1, 1), (1, 0)]
    maps = [
        microscope.map_at(*geometry.stage_vector((at - 30 + corner) * pitch), 60 * at[0] + at[1])
        for corner in corners
    ]
    total = np.zeros(2)
    for k in range(4):
        here, there = maps[k], maps[(k + 1) % 4]
        step = np.subtract(corners[(k + 1) % 4], corners[k])
        pixel = np.array([1919.5, 1919.5]) + step * pitch / 2
        total += pixel - there.stage_to_pixel(here.pixel_to_stage(pixel))
    return total


# -- light, dose, charge --------------------------------------------------------------------------


def test_the_light_is_uneven_wanders_and_flickers_by_what_is_set():
    settings = UnevenLightSettings(
        amplitude=0.08, wander=0.02, wander_frames=20.0, flicker=0.01, enabled=True
    )
    light = UnevenLight(settings, (1025, 1537), 16, np.random.SeedSequence(4))
    lights = np.array([light.of(number)[:65, :97] for number in range(300)])
    whole = lights.mean(axis=(1, 2))
    assert whole.std() / whole.mean() == pytest.approx(0.01, rel=0.2)
    shapes = lights / whole[:, None, None]
    fixed = shapes.mean(axis=0)
    assert fixed.std() == pytest.approx(0.08, rel=0.2)
    assert (shapes - fixed).std() == pytest.approx(0.02, rel=0.2)
    assert np.abs(np.diff(shapes, axis=0)).mean() < 0.6 * np.abs(shapes[10:] - shapes[:-10]).mean()


def test_contamination_darkens_what_the_beam_fell_on_and_nothing_else():
    microscope = imperfect(contamination={"rate": 0.05}, column={"beam_spread": 4.0})

    def mean(x):
        go(microscope, x=x)
        frame, truth = snap(microscope, 1e-3)
        return frame.data.mean() - 200.0, truth

    before, truth = mean(0.0)
    assert truth.dose_before == 0
    snap(microscope, 0.2)
    dose = microscope.truth(2).dose
    after, truth = mean(0.0)
    assert truth.dose_before == pytest.approx(dose * 1.005, rel=1e-3)
    assert after / before == pytest.approx(np.exp(-0.05 * truth.dose_before), rel=3e-3)
    assert mean(30.0)[0] / before == pytest.approx(1, rel=3e-3)
    at_the_edge = mean(2.29)[1]
    assert 0.1 < at_the_edge.dose_before / truth.dose_before < 0.9
    assert np.ptp(at_the_edge.light) > 0.1 * at_the_edge.light.mean()


def test_dose_falls_also_with_the_screen_down_and_in_an_exposure_that_is_aborted():
    clock = ManualClock()
    microscope = imperfect(contamination=True, clock=clock)
    microscope.column.set("screen", "Down")
    snap(microscope, 0.1)
    microscope.column.set("screen", "Up")
    full = snap(microscope, 0.1)[1]
    assert full.dose_before == pytest.approx(full.dose)
    microscope.column.set("blank", "On")
    snap(microscope, 0.1)
    microscope.column.set("blank", "Off")
    clock.on_sleep = lambda: clock.time >= 100.34 and microscope.camera.abort()
    with pytest.raises(Exception, match="aborted"):
        microscope.camera.expose(1.0)
    clock.on_sleep = lambda: None
    last = snap(microscope, 0.1)[1]
    spent = last.dose_before / full.dose * 0.1 - 0.2
    assert 0.02 < spent < 0.2


def test_charge_moves_the_image_on_a_fresh_place_and_less_and_less_there():
    charging = {"shift": 40.0, "settling_dose": 10.0}  # the beam is a hundred times the usual one
    microscope = imperfect(dots([(0.0, 0.0), (40.0, 0.0)], 0.012), charging=charging)
    motions = []
    for _ in range(4):
        frame, truth = snap(microscope, 0.02)
        motions.append(truth.motion_px)
        np.testing.assert_allclose(
            find_dot(frame.data, (127.5, 127.5)), truth.stage_to_pixel([0, 0]), atol=0.3
        )
    assert motions[0] > 0.3
    assert motions[3] < 0.3 * motions[0]
    go(microscope, x=40.0)
    assert snap(microscope, 0.02)[1].motion_px > 2 * motions[3]
