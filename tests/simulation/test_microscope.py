"""Frames against the truth behind them, measured on known marks."""

import json
import threading

import numpy as np
import pytest
from scipy import ndimage

from processing.geometry import FrameGeometry
from simulation import (
    CameraError,
    Magnification,
    MicroscopeSettings,
    SimulationError,
    VirtualMicroscope,
)
from tests.simulation.instrument import (
    EMPTY,
    Formula,
    ManualClock,
    dots,
    find_dot,
    go,
    quiet,
    real,
    snap,
)


def table(angle=0.0, flip_columns=False, flip_rows=False, pixel_size=4.0):
    """One line of the magnification table, for the start of the microscope."""
    line = Magnification("M", 5000, pixel_size, angle, flip_columns, flip_rows)
    return {"magnifications": (line,)}


def shift_between(a, b):
    """Measure by how many px (rows, columns) b's picture lies further than a's, sub-pixel."""
    size = np.array(a.shape)
    window = np.outer(np.hanning(size[0]), np.hanning(size[1]))
    fa, fb = (np.fft.fft2((x - x.mean()) * window) for x in (a.astype(float), b.astype(float)))
    spectrum = fb * np.conj(fa)
    rows = np.fft.fftfreq(size[0])[:, None]
    columns = np.fft.fftfreq(size[1])[None]
    k2 = rows**2 + columns**2
    weight = np.abs(spectrum) * ((k2 > 0.01**2) & (k2 < 0.2**2))
    total = np.zeros(2)
    for _ in range(3):
        turned = spectrum * np.exp(2j * np.pi * (rows * total[0] + columns * total[1]))
        angle = np.angle(turned)
        design = np.stack(np.broadcast_arrays(rows, columns), -1).reshape(-1, 2)
        w = weight.ravel()
        normal = design.T @ (design * w[:, None])
        total += np.linalg.solve(normal, design.T @ (w * -angle.ravel())) / (2 * np.pi)
    return total


# -- signs, angles, flips ---------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 3.0, -14.0, 47.0, 90.0, 163.0, -90.0])
@pytest.mark.parametrize(
    ("flip_columns", "flip_rows"), [(False, False), (True, False), (True, True)]
)
def test_a_mark_is_where_the_geometry_says(angle, flip_columns, flip_rows):
    mark = (10.18, -5.11)
    column = table(angle, flip_columns, flip_rows)
    microscope = quiet(dots([mark], 0.012), column=column)
    go(microscope, x=10.0, y=-5.0)
    frame, truth = snap(microscope)
    assert (truth.x, truth.y) == pytest.approx((10.0, -5.0), abs=1e-6)
    geometry = FrameGeometry(4.0, angle, flip_columns, flip_rows)
    expected = geometry.stage_to_pixel(mark, (256, 256), (10.0, -5.0))
    np.testing.assert_allclose(find_dot(frame.data, expected), expected, atol=0.05)
    assert microscope.column.geometry == geometry


def test_without_turn_or_flip_x_grows_to_the_right_and_y_upwards():
    microscope = quiet(dots([(0.3, 0.2)]), column=table())
    row, column = find_dot(snap(microscope)[0].data, (77, 202))
    assert row < 100
    assert column > 180


@pytest.mark.parametrize("magnification", [500, 2500, 5000, 10000, 20000, 50000])
def test_every_magnification_shows_its_pixel_size_and_angle(magnification):
    pixel = 20.0 / magnification
    marks = [(60 * pixel, 20 * pixel), (-50 * pixel, -70 * pixel)]
    microscope = quiet(dots(marks, 4 * pixel), optics={"cs": 0})
    microscope.column.set("magnification", magnification)
    frame, truth = snap(microscope)
    geometry = microscope.column.geometry
    assert truth.pixel_size == geometry.pixel_size == pytest.approx(pixel * 1000)
    for mark in marks:
        expected = geometry.stage_to_pixel(mark, (256, 256), (0, 0))
        np.testing.assert_allclose(find_dot(frame.data, expected), expected, atol=0.05)


def test_pixel_size_and_angle_differ_from_the_table_by_the_calibration_error():
    marks = [(0.4, 0.1), (-0.4, -0.1)]
    column = {"pixel_size_error": 1.0, "rotation_error": 2.0}
    microscope = quiet(dots(marks), column=table(3.0) | column)
    frame, truth = snap(microscope)
    found = [find_dot(frame.data, expected) for expected in truth.stage_to_pixel(np.array(marks))]
    span = np.linalg.norm(np.subtract(*found))
    assert span == pytest.approx(np.hypot(0.8, 0.2) * 1000 / (4.0 * 1.01), abs=0.05)
    assert (truth.pixel_size, truth.angle) == pytest.approx((4.04, 5.0))
    nominal = microscope.column.geometry
    assert (nominal.pixel_size, nominal.angle) == (4.0, 3.0)


# -- truth ------------------------------------------------------------------------------------


def test_truth_of_a_wrong_drifting_shaking_instrument_is_right_to_a_twentieth_of_a_pixel():
    places = [(10, 10), (17, 10), (17, 3), (-12, -20)]
    lattice = 0.3 * np.stack(np.meshgrid(np.arange(-5, 6), np.arange(-5, 6)), -1).reshape(-1, 2)
    wobble = np.random.default_rng(4).uniform(-0.04, 0.04, lattice.shape)
    marks = np.concatenate([np.array(place) + lattice + wobble for place in places])
    microscope = real(
        dots(marks.tolist()),
        column={"gun_current": 4700.0},
        optics={"radial_distortion": 2.0, "field_distortion": 1.5},
        camera={"counts_per_electron": 0.08, "sensor": [384, 384]},
    )
    microscope.column.set("image_shift_x", 0.7)
    microscope.column.set("image_shift_y", -0.4)
    microscope.column.set("beam_tilt_x", 4.0)
    microscope.column.set("defocus", -2.0)
    errors = []
    for x, y in places:
        go(microscope, settle=0.1, x=x, y=y)
        frame, truth = snap(microscope)
        pixels = truth.stage_to_pixel(marks)
        inside = (np.abs(pixels - 191.5) < 165).all(axis=1)
        errors += [find_dot(frame.data, pixel) - pixel for pixel in pixels[inside]]
        assert np.hypot(truth.x - x, truth.y - y) > 0.1, "nominal positions are to be wrong"
    assert len(errors) > 30
    assert np.abs(np.mean(errors, axis=0)).max() < 0.03
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_truth_maps_pixels_to_places_and_back():
    microscope = real(optics={"radial_distortion": 12.0, "field_distortion": 8.0})
    go(microscope, x=30.0, tilt=20.0)
    _, truth = snap(microscope, binning=2)
    pixels = np.array([[0, 0], [127, 0], [63.5, 63.5], [20.2, 101.7]])
    places = truth.pixel_to_stage(pixels)
    np.testing.assert_allclose(truth.stage_to_pixel(places), pixels, atol=1e-4)
    np.testing.assert_allclose(places[2], (truth.x, truth.y), atol=1e-4)


def test_truth_is_written_as_one_line_of_json_a_frame(tmp_path):
    microscope = real()
    microscope.truth_log = tmp_path / "log" / "truth.jsonl"
    frames = []
    for x in (0.0, 5.0, 11.0):
        go(microscope, x=x)
        frames.append(snap(microscope)[0])
    lines = [json.loads(line) for line in microscope.truth_log.read_text().splitlines()]
    assert [line["frame"] for line in lines] == [1, 2, 3]
    assert [line["timestamp"] for line in lines] == [frame.timestamp for frame in frames]
    for line in lines:
        truth = microscope.truth(line["frame"])
        assert (line["x"], line["y"]) == (truth.x, truth.y)
        assert line["pixel_size"] == pytest.approx(4.0 * 1.002)
        assert line["angle"] == pytest.approx(3.1)
        assert {"defocus", "blur_px", "astigmatism", "drift_x", "distortion"} <= set(line)


def test_truth_of_an_unknown_frame_says_which_there_are():
    microscope = quiet()
    with pytest.raises(SimulationError, match="frame 7; there is of none"):
        microscope.truth(7)
    snap(microscope)
    with pytest.raises(SimulationError, match="frame 7; there is of 1 to 1"):
        microscope.truth(7)


# -- image shift, tilt, distortion ------------------------------------------------------------


def test_image_shift_moves_the_place_that_is_seen_with_its_calibration_error():
    microscope = quiet(dots([(0.5, 0.0)]), column=table() | {"image_shift_error": [2.0, 0.0]})
    microscope.column.set("image_shift_x", 0.5)
    frame, truth = snap(microscope)
    assert truth.x == pytest.approx(0.51)
    found = find_dot(frame.data, (127.5, 125))
    np.testing.assert_allclose(found, (127.5, 127.5 - 0.01 / 0.004), atol=0.05)


def test_beam_tilt_shifts_the_image_by_tilt_times_defocus():
    microscope = quiet(dots([(0.0, 0.0)]), column=table(), optics={"semi_angle": 0.2})
    microscope.column.set("defocus", -8.0)
    microscope.column.set("beam_tilt_y", 10.0)
    frame, truth = snap(microscope)
    assert truth.y == pytest.approx(-0.08)
    np.testing.assert_allclose(find_dot(frame.data, (107.5, 127.5)), (107.5, 127.5), atol=0.05)


def test_a_tilted_specimen_is_foreshortened_along_y():
    marks = [(0.0, 0.45), (0.0, -0.45), (0.35, 0.0), (-0.35, 0.0)]
    microscope = quiet(dots(marks), column=table())
    go(microscope, tilt=40.0)
    frame, truth = snap(microscope)
    top, bottom, right, left = (
        find_dot(frame.data, near) for near in truth.stage_to_pixel(np.array(marks))
    )
    assert bottom[0] - top[0] == pytest.approx(0.9 / 0.004 * np.cos(np.radians(40)), abs=0.1)
    assert right[1] - left[1] == pytest.approx(0.7 / 0.004, abs=0.05)


def test_distortion_shifts_marks_by_the_amount_that_is_set():
    corner = 0.36 * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    marks = [*map(tuple, corner), (0.0, 0.0)]
    microscope = quiet(dots(marks, 0.008), column=table(), optics={"radial_distortion": 30.0})
    frame, _ = snap(microscope)
    # A pincushion: ideal = seen − 30 (seen/R)³, where R is half the diagonal.
    ideal, radius = np.hypot(0.36, 0.36) / 0.004, 128 * np.sqrt(2)
    roots = np.roots([-30 / radius**3, 0, 1, -ideal]).real
    seen = roots[np.argmin(np.abs(roots - ideal))]
    for x, y in corner:
        expected = 127.5 + seen * np.array([-np.sign(y), np.sign(x)]) / np.sqrt(2)
        found = find_dot(frame.data, expected, half=10)
        np.testing.assert_allclose(found, expected, atol=0.15)
    assert seen - ideal > 12
    np.testing.assert_allclose(find_dot(frame.data, (127.5, 127.5)), 127.5, atol=0.05)


def test_default_distortion_is_at_most_three_tenths_of_a_pixel():
    distortion = real(camera={"sensor": [2048, 2048]}).distortion
    rows, columns = np.meshgrid(np.linspace(0, 2047, 50), np.linspace(0, 2047, 50))
    shift = np.linalg.norm(distortion.shift(rows, columns), axis=-1)
    assert 0.1 < shift.max() <= 0.3
    assert np.linalg.norm(distortion.shift(1023.5, 1023.5)) < 1e-9


# -- accuracy of the sampling -----------------------------------------------------------------


def _grain(x, y):
    """Texture with detail down to four pixels of 4 nm."""
    rng = np.random.default_rng(8)
    total = np.zeros(x.shape)
    for _ in range(40):
        angle, period, phase = rng.uniform(0, np.pi), rng.uniform(0.014, 0.1), rng.uniform(0, 7)
        total += np.sin(2 * np.pi / period * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return 0.6 + 0.04 * total


@pytest.mark.parametrize("angle", [0.0, 3.1, 20.0])
def test_overlaps_of_neighbouring_frames_agree_to_a_fiftieth_of_a_pixel(angle):
    microscope = quiet(Formula(_grain), column=table(angle))
    frames = []
    for step in (0.0, 0.25, 0.5, 0.75, 0.37):
        x, y = FrameGeometry(4.0, angle).stage_vector([10 + step, 10 + step])
        go(microscope, x=float(x), y=float(y))
        frames.append(snap(microscope)[0].data)
    for frame, step in zip(frames[1:], (0.25, 0.5, 0.75, 0.37), strict=True):
        found = shift_between(frames[0], frame)
        np.testing.assert_allclose(found, -step, atol=0.02)


@pytest.mark.parametrize("angle", [0.0, 3.1])
def test_sharpness_does_not_depend_on_where_pixels_fall(angle):
    microscope = quiet(Formula(_grain), column=table(angle))
    contrast = []
    for step in (0.0, 0.25, 0.5, 0.75):
        go(microscope, x=0.004 * step)
        contrast.append(snap(microscope)[0].data.astype(float).std())
    assert np.ptp(contrast) / np.mean(contrast) < 0.02


# -- motion -----------------------------------------------------------------------------------


def test_a_frame_taken_too_soon_is_blurred_and_displaced():
    microscope = quiet(
        dots([(20.0, 20.0)], 0.012),
        column=table(),
        stage={"vibration": 0.06, "vibration_decay": 0.1},
    )
    go(microscope, settle=0.0, x=20.0)
    microscope.stage.move(y=20.0)
    microscope.stage.wait()
    shaken, early = snap(microscope, 0.05)
    go(microscope, settle=2.0)
    still, late = snap(microscope, 0.05)
    assert late.motion_px < 0.01
    assert early.motion_px > 2
    # The lightest parts of a smeared mark are as dark as they are for less of the time.
    assert shaken.data.min() > still.data.min() + 0.3 * np.ptp(still.data)
    np.testing.assert_allclose(
        ndimage.center_of_mass(_darker(shaken.data)),
        early.stage_to_pixel([20.0, 20.0]),
        atol=0.5,
    )


def _darker(data):
    """Give by how much pixels are darker than the empty film, without the noise."""
    darker = np.median(data) - data
    return np.where(darker > 0.012 * np.median(data), darker, 0.0)


def test_exposure_over_a_move_smears_along_it():
    microscope = quiet(
        dots([(0.0, 0.0)]), column=table(), stage={"x": {"speed": 4.0, "acceleration": 1e5}}
    )
    go(microscope, x=-1.0)
    microscope.stage.move(x=1.0)
    clock = microscope.clock
    clock.wait_until(clock.now() + 0.225)
    frame, truth = snap(microscope, 0.05)
    smear = _darker(frame.data)
    rows, columns = (
        np.average((np.arange(256) - 127.5) ** 2, weights=smear.sum(axis=a)) for a in (1, 0)
    )
    # 4 µm/s for 50 ms are 50 px: a line of that length has a variance of 50²/12.
    assert columns - rows == pytest.approx(50**2 / 12, rel=0.1)
    assert truth.motion_px == pytest.approx(50 / np.sqrt(12) / np.sqrt(2), rel=0.02)
    np.testing.assert_allclose(
        ndimage.center_of_mass(smear), truth.stage_to_pixel([0.0, 0.0]), atol=0.2
    )


def test_a_long_fast_move_gives_a_grey_frame_and_no_error():
    microscope = quiet(Formula(_grain))
    microscope.stage.move(x=900.0, y=-700.0)
    frame, truth = snap(microscope, 0.5)
    assert truth.motion_px > 1000
    flat = frame.data[40:-40, 40:-40].astype(float)
    assert flat.std() / flat.mean() < 0.02


def test_drift_moves_the_picture_between_frames():
    microscope = quiet(
        dots([(0.0, 0.0)]), column=table(), stage={"drift": [0.4, 0.0], "drift_time": 100.0}
    )
    clock = microscope.clock
    _, first = snap(microscope)
    clock.wait_until(200.0)
    frame, later = snap(microscope)
    assert later.drift_x - first.drift_x == pytest.approx(0.4 * (1 - np.exp(-2.0)), abs=0.001)
    expected = later.stage_to_pixel([0.0, 0.0])
    np.testing.assert_allclose(find_dot(frame.data, expected), expected, atol=0.05)
    assert expected[1] < 127.5 - 80


# -- light ------------------------------------------------------------------------------------


def test_a_small_beam_shows_its_edge_where_it_is():
    microscope = quiet(column=table() | {"beam_offset": [0, 0]})
    microscope.column.set("beam_spread", 0.8)
    microscope.column.set("beam_x", 0.1)
    data = snap(microscope, 0.001)[0].data.astype(float)
    lit = data > data.max() / 2
    rows, columns = np.nonzero(lit)
    assert np.sqrt(lit.sum() / np.pi) == pytest.approx(0.4 / 0.004, rel=0.01)
    np.testing.assert_allclose((rows.mean(), columns.mean()), (127.5, 127.5 + 25), atol=0.5)
    assert data[0, 0] < 210


def test_all_the_current_is_in_the_beam():
    counts = []
    for spread in (0.5, 0.7):
        microscope = quiet(column=table() | {"beam_offset": [0, 0], "beam_falloff": 0.3})
        microscope.column.set("beam_spread", spread)
        microscope.column.set("spot_size", 8)
        counts.append((snap(microscope, 0.001)[0].data - 200.0).sum())
    electrons = 4700e-9 * 0.6**7 * 0.001 / 1.602176634e-19
    np.testing.assert_allclose(counts, 0.95 * electrons * 0.08, rtol=0.01)


def test_condenser_stigmator_makes_the_beam_elliptical():
    microscope = quiet(column=table() | {"beam_offset": [0, 0]})
    microscope.column.set("beam_spread", 0.6)
    areas, shapes = [], []
    for value in (0.0, 0.8, -0.8):
        microscope.column.set("condenser_stigmator_x", value)
        data = snap(microscope, 0.001)[0].data
        rows, columns = np.nonzero(data > data.max() / 2)
        areas.append(rows.size)
        shapes.append(np.ptp(columns) / np.ptp(rows))
    assert shapes[0] == pytest.approx(1, abs=0.03)
    assert shapes[1] > 1.5
    assert shapes[2] == pytest.approx(1 / shapes[1], rel=0.05)
    np.testing.assert_allclose(areas, areas[0], rtol=0.02)


def test_mean_counts_follow_spot_size_spread_and_exposure():
    microscope = quiet()

    def mean(exposure=0.1):
        return snap(microscope, exposure)[0].data.mean() - 200

    base = mean()
    assert mean(0.05) == pytest.approx(base / 2, rel=0.01)
    microscope.column.set("spot_size", 3)
    assert mean() == pytest.approx(base * 0.36, rel=0.01)
    microscope.column.set("spot_size", 1)
    microscope.column.set("beam_spread", 40.0)
    assert mean() == pytest.approx(base / 4, rel=0.01)


def test_default_bright_field_has_about_twelve_thousand_counts_in_a_tenth_of_a_second():
    frame, truth = snap(real())
    assert 11_000 < frame.data.mean() < 13_000
    assert 0.3 < truth.dose < 3


def test_intensity_zoom_keeps_the_counts_when_the_magnification_changes():
    microscope = quiet()
    base = snap(microscope)[0].data.mean()
    for magnification in (250, 20000):
        microscope.column.set("magnification", magnification)
        assert snap(microscope)[0].data.mean() == pytest.approx(base, rel=0.01)


@pytest.mark.parametrize(
    ("name", "value"), [("blank", "On"), ("screen", "Down"), ("column_valve", "Closed")]
)
def test_no_beam_makes_a_dark_frame(name, value):
    microscope = quiet()
    microscope.column.set(name, value)
    frame, truth = snap(microscope)
    assert frame.data.min() == frame.data.max() == 200
    assert truth.dose == 0


# -- focus ------------------------------------------------------------------------------------


def test_focus_is_where_nobody_said_and_varies_smoothly_over_the_section():
    microscope = real()
    height = {}
    for x in (-200.0, -190.0, 0.0, 200.0):
        go(microscope, x=x)
        height[x] = snap(microscope)[1].defocus
    assert 2 < height[0.0] < 5, "with Defocus at zero the section is out of focus"
    assert 0.3 < abs(height[200.0] - height[-200.0]) < 6
    assert abs(height[-190.0] - height[-200.0]) < 0.3


def test_raising_the_specimen_takes_as_much_more_defocus():
    microscope = quiet()
    go(microscope, z=5.0)
    microscope.column.set("defocus", 5.0)
    assert snap(microscope)[1].defocus == pytest.approx(0.0, abs=1e-9)


def test_ten_micrometres_of_defocus_blur_either_way():
    microscope = quiet(Formula(_grain), column=table(), optics={"amplitude_contrast": 0.8})
    contrast = {}
    for defocus in (-10.0, -1.0, 0.0, 1.0, 10.0):
        microscope.column.set("defocus", defocus)
        contrast[defocus] = snap(microscope)[0].data.astype(float).std()
    assert contrast[10.0] < 0.75 * contrast[0.0]
    assert contrast[-10.0] < 0.75 * contrast[0.0]
    assert contrast[-10.0] == pytest.approx(contrast[10.0], rel=0.35), "both signs look alike"
    assert contrast[1.0] == pytest.approx(contrast[0.0], rel=0.2)


# -- the whole --------------------------------------------------------------------------------


def _session(seed):
    microscope = real(Formula(_grain), seed=seed)
    data = []
    for x, y in ((3.0, 0.0), (9.0, 1.0)):
        microscope.stage.move(x=x, y=y)
        microscope.stage.wait()
        microscope.column.set("defocus", -x)
        data.append(snap(microscope, 0.02)[0].data)
        microscope.stage.position()
    return np.array(data)


def test_same_commands_and_seed_give_the_same_frames_bit_for_bit():
    first = _session(5)
    assert (first == _session(5)).all()
    assert (first != _session(6)).mean() > 0.5
    assert (first[0] != first[1]).mean() > 0.5


def test_two_frames_of_one_place_differ_by_noise_only():
    microscope = real(Formula(_grain))
    a, b = (snap(microscope)[0].data.astype(float) for _ in range(2))
    noise = (a - b).std() / np.sqrt(2)
    assert noise == pytest.approx(np.sqrt(8 * (a.mean() - 200) + 36), rel=0.03)
    around = np.corrcoef((a - b)[:, :-1].ravel(), (a - b)[:, 1:].ravel())[0, 1]
    assert abs(around) < 0.02


def test_a_move_has_the_texture_of_its_target_made_ahead():
    specimen = Formula(lambda x, y: np.full(x.shape, 0.9))
    microscope = quiet(specimen)
    microscope.stage.move(x=40.0, y=-20.0)
    x, y, width, height, pixel_size = specimen.prefetched[-1]
    assert (x, y, pixel_size) == (40.0, -20.0, 4)
    assert width == pytest.approx(height)
    assert width > 1.024


def test_faster_than_real_time():
    clock = ManualClock()
    microscope = quiet(clock=clock, time_scale=50.0)
    started = clock()
    go(microscope, settle=0, x=500.0)
    snap(microscope, 1.0)
    assert clock() - started < 0.1
    assert microscope.clock.now() > 1.5


def test_a_tape_shows_another_section_in_each_aperture():
    class Sections:
        def __init__(self):
            self.closed = False

        def __len__(self):
            return 3

        def specimen(self, index):
            return Formula(lambda x, y: np.full(x.shape, 0.2 * index))

        def close(self):
            self.closed = True

    tape = Sections()
    microscope = quiet(tape)
    assert microscope.stage.n_apertures == 3
    first = snap(microscope)[0].data.mean() - 200
    microscope.stage.go_to_aperture(3)
    assert snap(microscope)[0].data.mean() == pytest.approx(200, abs=1), "the tape is opaque"
    microscope.stage.wait()
    frame, truth = snap(microscope)
    assert truth.aperture == 3
    assert frame.data.mean() - 200 == pytest.approx(3 * first, rel=0.01)
    microscope.close()
    assert tape.closed


def test_stage_is_polled_and_stopped_while_frames_are_taken():
    specimen = Formula(lambda x, y: np.full(x.shape, 0.9))
    settings = MicroscopeSettings.from_mapping(
        {"camera": {"sensor": [128, 128]}, "time_scale": 20.0}
    )
    microscope = VirtualMicroscope(settings, specimen)
    done = threading.Event()
    readings, problems = [], []

    def poll():
        while not done.wait(0.001):
            try:
                readings.append(microscope.stage.position()["x"])
                microscope.column.read()
            except Exception as error:
                problems.append(error)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        microscope.stage.move(x=800.0)
        for _ in range(10):
            snap(microscope, 0.05)
        microscope.stage.stop()
        microscope.stage.wait(10)
    finally:
        done.set()
        poller.join(10)
    assert not problems
    assert not microscope.stage.moving()
    assert len(readings) > 5
    assert max(readings) < 801


def test_a_beam_drop_is_in_the_frame_and_in_its_truth():
    microscope = quiet()
    microscope.faults.set("beam_drop", count=1)
    frame, truth = snap(microscope)
    assert frame.data.max() == 200
    assert truth.faults == ("beam_drop",)
    frame, truth = snap(microscope)
    assert frame.data.mean() > 5000
    assert truth.faults == ()


def test_reading_without_an_exposure_is_refused():
    with pytest.raises(CameraError, match="expose first"):
        quiet(EMPTY).camera.read()
