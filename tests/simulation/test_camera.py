"""The camera: its counts, noise and defects measured, and its two phases."""

import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from simulation import (
    CameraBusyError,
    CameraError,
    CameraTimeoutError,
    ExposureAbortedError,
    LostFrameError,
    Magnification,
    VirtualMicroscope,
)
from tests.simulation.instrument import Formula, ManualClock, quiet, snap, white_noise
from tests.support import wait_until


def plain(**camera):
    """Make a microscope over an even film with a real camera's noise; 8 counts an electron."""
    return quiet(
        column={"gun_current": 47.0, "beam_edge": 0.001, "beam_spread": 30.0},
        camera={"counts_per_electron": 8.0, "read_noise": 6.0} | camera,
    )


# -- counts and noise -------------------------------------------------------------------------


def test_photon_transfer_curve_has_the_slope_of_the_gain_and_the_offset_of_the_read_noise():
    microscope = plain()
    means, variances = [], []
    for exposure in (0.002, 0.01, 0.03, 0.1, 0.2, 0.4):
        a, b = (snap(microscope, exposure)[0].data.astype(float) for _ in range(2))
        means.append((a + b).mean() / 2 - 200)
        variances.append((a - b).var() / 2)
    slope, offset = np.polyfit(means, variances, 1, w=1 / np.array(variances))
    assert slope == pytest.approx(8, rel=0.02)
    assert offset == pytest.approx(36, rel=0.15)
    np.testing.assert_allclose(np.divide(means, (0.002, 0.01, 0.03, 0.1, 0.2, 0.4)),
                               means[-1] / 0.4, rtol=0.02)  # fmt: skip


def test_a_dark_frame_has_offset_dark_current_and_read_noise():
    microscope = plain(dark_current=500.0, offset_spread=3.0)
    microscope.column.set("blank", "On")
    short, long = (snap(microscope, t)[0].data.astype(float) for t in (0.01, 2.0))
    assert short.mean() == pytest.approx(200 + 5, abs=1.0)
    assert long.mean() - short.mean() == pytest.approx(995, rel=0.01)
    columns = short.mean(axis=0)
    assert columns.std() == pytest.approx(3, rel=0.2)
    assert (short - columns).std() == pytest.approx(np.sqrt(36 + 8 * 5), rel=0.05)
    assert (long - long.mean(axis=0)).std() == pytest.approx(np.sqrt(36 + 8 * 1000), rel=0.05)


def test_gain_map_is_fixed_and_a_flat_field_removes_it():
    microscope = plain(gain_spread=0.05)
    frames = [snap(microscope)[0].data.astype(float) for _ in range(3)]
    means = [frame.mean() for frame in frames]
    relative = frames[0] / means[0] - 1
    noise = np.sqrt(8 / (means[0] - 200))
    assert relative.std() == pytest.approx(np.hypot(0.05, noise), rel=0.05)
    pattern = np.mean(frames[:2], axis=0) - 200
    flat = (frames[2] - 200) / pattern
    assert flat.std() == pytest.approx(noise * np.sqrt(1.5), rel=0.1)


def test_hot_pixels_glow_in_the_dark_and_dead_ones_see_nothing():
    microscope = plain(hot_fraction=1e-3, dead_fraction=2e-3, hot_current=5e4)
    bright = np.mean([snap(microscope)[0].data for _ in range(4)], axis=0)
    dead = bright < 260
    assert dead.sum() == pytest.approx(round(256 * 256 * 2e-3), abs=2)
    microscope.column.set("blank", "On")
    dark = snap(microscope, 1.0)[0].data
    hot = dark > 1000
    assert hot.sum() == pytest.approx(round(256 * 256 * 1e-3), abs=4)
    assert np.median(dark) == pytest.approx(200, abs=2)
    again = snap(microscope, 1.0)[0].data > 1000
    assert (hot == again).mean() > 0.9999


def test_noise_is_white_and_new_in_every_frame_and_row():
    microscope = plain()
    a, b = (snap(microscope)[0].data.astype(float) for _ in range(2))
    a -= a.mean()
    b -= b.mean()
    scale = a.std() * b.std()
    cross = np.abs(np.fft.ifft2(np.fft.fft2(a) * np.conj(np.fft.fft2(b)))) / a.size / scale
    assert cross.max() < 0.03, "no shift brings two frames' noise together"
    own = np.abs(np.fft.ifft2(np.abs(np.fft.fft2(a)) ** 2)) / a.size / a.std() ** 2
    own[0, 0] = 0
    assert own.max() < 0.03


@pytest.mark.parametrize("mtf_nyquist", [0.1, 0.16, 0.25])
def test_mtf_is_measured_as_it_was_set(mtf_nyquist):
    microscope = quiet(
        white_noise(4), column={"magnifications": (Magnification("M", 5000, 4.0),)},
        camera={"sensor": [512, 512], "mtf_nyquist": mtf_nyquist},
    )  # fmt: skip
    data = snap(microscope)[0].data.astype(float)
    window = np.outer(np.hanning(512), np.hanning(512))
    power = np.abs(np.fft.fft2((data - data.mean()) * window)) ** 2
    nu = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None])
    low = power[(nu > 0.01) & (nu < 0.04)].mean()
    for ring in (0.1, 0.2, 0.3):
        inside = np.abs(nu - ring) < 0.01
        expected = mtf_nyquist ** (4 * ring**2) / mtf_nyquist ** (4 * 0.028**2)
        assert np.sqrt(power[inside].mean() / low) == pytest.approx(expected, abs=0.03)


# -- reading ----------------------------------------------------------------------------------


def test_binning_sums_the_pixels_and_reads_them_once():
    grain = Formula(lambda x, y: 0.5 + 0.3 * np.sin(40 * x) * np.cos(30 * y))
    still = quiet(grain)
    whole = snap(still)[0].data.astype(float) - 200
    for binning in (2, 4):
        frame, truth = snap(still, 0.1 / binning**2, binning=binning)
        n = 256 // binning
        summed = whole.reshape(n, binning, n, binning).sum(axis=(1, 3)) / binning**2
        assert frame.data.shape == truth.shape == (n, n)
        assert truth.pixel_size == pytest.approx(4.0 * binning)
        assert (frame.data - 200 - summed).std() < 0.01 * summed.mean()
    dark = plain()
    dark.column.set("blank", "On")
    assert snap(dark, binning=4)[0].data.std() == pytest.approx(6, rel=0.05)


def test_binned_marks_lie_where_the_truth_says():
    microscope = quiet(
        Formula(lambda x, y: 0.9 - 0.5 * np.exp(-((x - 0.2) ** 2 + (y - 0.1) ** 2) / 0.03**2))
    )
    frame, truth = snap(microscope, 0.03, binning=2)
    dark = np.clip(np.median(frame.data) * 0.98 - frame.data, 0, None)
    rows, columns = np.mgrid[:128, :128]
    found = [(dark * axis).sum() / dark.sum() for axis in (rows, columns)]
    np.testing.assert_allclose(found, truth.stage_to_pixel([0.2, 0.1]), atol=0.05)


def test_eight_bits_are_the_sixteen_in_steps():
    microscope = plain(grey_step=128)
    deep = snap(microscope)[0].data
    flat = snap(microscope, bits=8)[0].data
    assert deep.dtype == np.uint16
    assert flat.dtype == np.uint8
    assert flat.mean() == pytest.approx(deep.mean() / 128, rel=0.01)
    assert snap(microscope, 1.0, bits=8)[0].data.min() == 255


def test_counts_saturate():
    microscope = plain(saturation=30_000)
    data = snap(microscope, 2.0)[0].data
    assert data.min() == data.max() == 30_000
    assert snap(plain(), 5.0)[0].data.max() == 65_535


@pytest.mark.parametrize("sensor", [(16, 16), (37, 50), (200, 333), (96, 1024)])
def test_any_sensor_from_sixteen_pixels_on(sensor):
    microscope = plain(sensor=list(sensor))
    assert snap(microscope)[0].data.shape == sensor
    assert snap(microscope, binning=4)[0].data.shape == (sensor[0] // 4, sensor[1] // 4)
    data = snap(microscope)[0].data
    for border in (data[0], data[-1], data[:, 0], data[:, -1]):
        assert border.mean() == pytest.approx(data.mean(), rel=0.05), "evenly lit to the border"


# -- two phases -------------------------------------------------------------------------------


def test_expose_takes_the_exposure_and_read_takes_no_time():
    clock = ManualClock()
    microscope = quiet(clock=clock)
    microscope.camera.expose(0.25)
    assert clock() - 100 == pytest.approx(0.25)
    microscope.camera.read()
    assert clock() - 100 == pytest.approx(0.25)


def test_a_frame_can_be_had_a_readout_time_after_its_exposure():
    clock = ManualClock()
    camera = quiet(clock=clock, camera={"readout_time": 0.4}).camera
    camera.expose(0.25)
    assert clock() - 100 == pytest.approx(0.25), "the exposure takes no longer"
    clock.sleep(0.1)
    camera.read()
    assert clock() - 100 == pytest.approx(0.65), "what passed since the exposure counts"
    camera.expose(0.25)
    clock.sleep(1.0)
    camera.read()
    assert clock() - 100 == pytest.approx(1.9), "nor is there anything to wait for after it"


def test_abort_ends_a_readout():
    clock = ManualClock()
    camera = quiet(clock=clock, camera={"readout_time": 60.0}).camera
    camera.expose(0.25)
    clock.on_sleep = camera.abort
    with pytest.raises(ExposureAbortedError, match="exposure 1 was aborted"):
        camera.read()
    assert clock() - 100 < 1


def test_the_stage_may_move_before_the_frame_is_read():
    dark = Formula(lambda x, y: 0.9 - 0.5 * (x > 0))
    microscope = quiet(dark)
    microscope.camera.expose(0.1)
    microscope.stage.move(x=50.0)
    microscope.stage.wait()
    data = microscope.camera.read().data
    assert data[:, :100].mean() > 1.5 * data[:, 160:].mean()


def views_of(microscope):
    """Note the views that frames are made of."""
    render, views = microscope.camera._renderer.render, []

    def noted(view):
        views.append(view)
        return render(view)

    microscope.camera._renderer.render = noted
    return views


def test_a_frame_is_made_while_it_is_exposed():
    clock = ManualClock()
    microscope = quiet(clock=clock)
    views = views_of(microscope)
    clock.on_sleep = lambda: wait_until(lambda: views, 10, "a frame before the exposure's end")
    microscope.camera.expose(0.25)
    microscope.camera.read()
    assert len(views) == 1
    assert microscope.truth(1).timestamp == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    "change",
    [
        lambda microscope: microscope.column.set("blank", "On"),
        lambda microscope: microscope.column.set("image_shift_x", 0.2),
        lambda microscope: microscope.stage.move(x=0.5),
        lambda microscope: microscope.faults.set("beam_drop", count=1),
    ],
    ids=["blank", "image shift", "move", "beam drop"],
)
def test_what_changes_in_an_exposure_is_in_its_frame(change):
    grain = Formula(lambda x, y: 0.5 + 0.3 * np.sin(40 * x) * np.cos(30 * y))
    frames = []
    for ahead in (True, False):
        clock = ManualClock()
        microscope = quiet(grain, clock=clock)
        camera, scene = microscope.camera, microscope.camera._scene
        if not ahead:  # it foresees what never comes, and makes the frame at the end alone
            foreseen = iter([replace(scene(), stage_commands=-1)])
            camera._scene = lambda foreseen=foreseen, scene=scene: next(foreseen, None) or scene()
        events = iter([partial(change, microscope)])
        clock.on_sleep = lambda events=events: next(events, int)()
        frames.append(snap(microscope, 0.25)[0].data)
    np.testing.assert_array_equal(*frames)
    assert (frames[0] != snap(quiet(grain), 0.25)[0].data).any()


def test_frame_numbers_rise_also_over_failures():
    microscope = quiet()
    numbers = [snap(microscope)[0].number]
    microscope.faults.set("lost_frame", count=1)
    microscope.camera.expose(0.01)
    with pytest.raises(LostFrameError, match="frame 2 did not arrive; expose again"):
        microscope.camera.read()
    microscope.faults.set("camera_timeout", count=1)
    with pytest.raises(CameraTimeoutError, match=r"exposure 3 of 0.01 s did not end within 1 s"):
        microscope.camera.expose(0.01)
    numbers.append(snap(microscope)[0].number)
    assert numbers == [1, 4]
    assert microscope.camera.frame_number == 4


def test_a_camera_that_times_out_takes_its_time_to():
    clock = ManualClock()
    microscope = quiet(clock=clock, camera={"timeout": 3.0})
    microscope.faults.set("camera_timeout", count=1)
    with pytest.raises(CameraTimeoutError):
        microscope.camera.expose(0.5)
    assert clock() - 100 == pytest.approx(3.5, abs=0.02)


def test_frames_are_read_in_the_order_of_their_exposure_and_kept_up_to_a_limit():
    microscope = quiet(camera={"unread_frames": 2})
    first, second = microscope.camera.expose(0.01), microscope.camera.expose(0.01)
    with pytest.raises(CameraBusyError, match="2 frames were not read"):
        microscope.camera.expose(0.01)
    assert [microscope.camera.read().number for _ in range(2)] == [first, second]
    with pytest.raises(CameraError, match="no frame to read; expose first"):
        microscope.camera.read()


def test_abort_ends_an_exposure_at_once_and_forgets_it():
    microscope = VirtualMicroscope(quiet().settings)
    failures = []

    def expose():
        try:
            microscope.camera.expose(30.0)
        except ExposureAbortedError as error:
            failures.append(str(error))

    thread = threading.Thread(target=expose)
    thread.start()
    try:
        while microscope.camera.frame_number == 0:
            thread.join(0.005)
        with pytest.raises(CameraBusyError, match="an exposure is running"):
            microscope.camera.expose(0.01)
    finally:
        microscope.camera.abort()
        thread.join(5)
    assert not thread.is_alive()
    assert failures == ["exposure 1 was aborted"]
    with pytest.raises(CameraError, match="no frame"):
        microscope.camera.read()
    snap(microscope, 0.01)


def test_abort_forgets_frames_that_were_not_read():
    microscope = quiet()
    microscope.camera.expose(0.01)
    microscope.camera.abort()
    with pytest.raises(CameraError, match="no frame"):
        microscope.camera.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "exposure is 0.0 s; it must lie between 0.001 and 60 s"),
        ((float("nan"),), "exposure is nan s"),
        ((100.0,), "exposure is 100.0 s"),
        ((0.1, 3), "binning is 3; it must be 1, 2 or 4"),
        ((0.1, 1, 12), "bits is 12; it must be 8 or 16"),
    ],
)
def test_arguments_are_checked_before_anything_happens(arguments, message):
    microscope = quiet()
    with pytest.raises(CameraError, match=message):
        microscope.camera.expose(*arguments)
    assert microscope.camera.frame_number == 0


def test_cooling_takes_its_time():
    clock = ManualClock()
    camera = quiet(clock=clock).camera
    assert camera.temperature() == pytest.approx(-10)
    camera.set_temperature(20.0)
    clock.sleep(60)
    assert camera.temperature() == pytest.approx(20 - 30 / np.e, abs=0.1)
    clock.sleep(600)
    assert camera.temperature() == pytest.approx(20, abs=0.01)
    with pytest.raises(CameraError, match="temperature is 50 °C; it must lie between -60 and 40"):
        camera.set_temperature(50)
