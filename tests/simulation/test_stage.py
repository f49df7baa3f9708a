"""The stage: motion in time, limits, and each of its errors measured."""

import threading

import numpy as np
import pytest

from simulation import (
    FaultSet,
    StageError,
    StageLimitError,
    StageSettings,
    StageStalledError,
    StageTimeoutError,
    VirtualStage,
)
from simulation.clock import SimulationClock
from simulation.motion import brake, go
from tests.simulation.instrument import QUIET, ManualClock, merged


def make(clock=None, seed=1, n_apertures=1, **changes):
    """Make a stage without errors but for those given; a stepped clock."""
    clock = clock or ManualClock()
    settings = StageSettings.from_mapping(merged(QUIET["stage"], changes))
    stage = VirtualStage(
        settings,
        SimulationClock(clock, clock.sleep),
        FaultSet(),
        seed=np.random.SeedSequence(seed),
        n_apertures=n_apertures,
    )
    return stage, clock


def send(stage, **targets):
    stage.move(**targets)
    stage.wait()


# -- motion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "target"), [(0, 100), (30, -70), (5, 5.01), (2, 2)])
def test_a_move_keeps_speed_and_acceleration_and_arrives(start, target):
    path = go(1.0, start, target, 50.0, 200.0)
    t = np.linspace(0.5, path.end + 0.5, 20_001)
    x = path.position(t)
    step = t[1] - t[0]
    assert x[0] == start
    assert x[-1] == pytest.approx(target)
    assert np.abs(np.diff(x) / step).max() <= 50.0001
    assert np.abs(np.diff(x, 2) / step**2).max() <= 201
    assert ((x - start) * np.sign(target - start) >= -1e-9).all(), "never the wrong way"


def test_times_of_a_trapezoid_and_of_a_triangle():
    # 0.25 s to 50 µm/s over 6.25 µm, twice, and 87.5 µm at speed
    assert go(0, 0, 100, 50, 200).end == pytest.approx(0.25 + 1.75 + 0.25)
    assert go(0, 0, 2, 50, 200).end == pytest.approx(2 * np.sqrt(2 / 200))


def test_braking_takes_speed_squared_over_twice_the_acceleration():
    path = brake(2.0, 10.0, -50.0, 200.0)
    assert path.end == pytest.approx(2.25)
    assert path.target == pytest.approx(10 - 50**2 / 400)


def test_move_starts_and_wait_ends_at_the_target():
    stage, clock = make()
    stage.move(x=100.0, tilt=5.0)
    assert stage.moving()
    assert stage.moving_axes() == {"x", "tilt"}
    assert stage.position()["x"] == pytest.approx(0, abs=0.01)
    stage.wait()
    assert not stage.moving()
    assert stage.position()["x"] == pytest.approx(100)
    assert stage.position()["tilt"] == pytest.approx(5, abs=0.01)
    assert stage.true_position()["x"] == pytest.approx(100)
    assert clock() > 100 + 0.5


def test_set_speed_changes_the_next_move():
    stage, clock = make()
    stage.set_speed("x", 10.0)
    send(stage, x=100.0)
    assert clock() - 100 == pytest.approx(10.0, abs=0.05)
    with pytest.raises(
        StageLimitError, match="speed of x is 0 um/s; it must lie between 0 and 2000"
    ):
        stage.set_speed("x", 0)
    with pytest.raises(StageError, match="no axis 'w'; there are x, y, z, tilt"):
        stage.set_speed("w", 1)


def test_stop_brakes_between_start_and_target():
    stage, clock = make()
    stage.move(x=800.0)
    clock.sleep(0.3)
    before = stage.position()["x"]
    stage.stop()
    assert stage.moving(), "it takes some time to brake"
    stage.wait()
    x = stage.position()["x"]
    # from 1000 µm/s with 20 000 µm/s²
    assert x - before == pytest.approx(1000**2 / (2 * 20_000), abs=0.1)
    clock.sleep(5)
    assert stage.position()["x"] == pytest.approx(x, abs=0.001)


def test_stop_of_one_axis_leaves_the_others():
    stage, clock = make()
    stage.move(x=500.0, y=500.0)
    clock.sleep(0.2)
    stage.stop(["x"])
    stage.wait()
    assert stage.position()["y"] == pytest.approx(500)
    assert stage.position()["x"] < 300


def test_a_new_target_in_mid_move_replaces_the_old():
    stage, clock = make()
    stage.move(x=800.0)
    clock.sleep(0.2)
    here = stage.position()["x"]
    stage.move(x=-50.0)
    clock.sleep(0.01)
    assert stage.position()["x"] > here, "it brakes first"
    clock.sleep(0.01)
    stage.stop()
    stage.wait()
    assert stage.position()["x"] > here
    send(stage, x=-50.0)
    assert stage.position()["x"] == pytest.approx(-50)


def test_positions_are_continuous_through_stops_and_new_targets():
    stage, clock = make(x={"backlash": 0.5, "jitter": 0.2}, vibration=0.1)
    times, places = [], []
    for command in ("move", "stop", "move", "retarget", "stop", "back"):
        match command:
            case "move":
                stage.move(x=100.0)
            case "retarget":
                stage.move(x=-100.0)
            case "back":
                stage.move(x=0.0)
            case "stop":
                stage.stop()
        for _ in range(100):
            clock.sleep(0.0005)
            times.append(clock())
            places.append(stage.true_position()["x"])
    assert np.abs(np.diff(places)).max() < 1000 * 0.0005 * 1.2


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"x": 1000.1}, "x is 1000.1 um; it must lie between -1000 and 1000 um"),
        ({"tilt": -61}, "tilt is -61 deg; it must lie between -60 and 60 deg"),
        ({"y": float("nan")}, "y is nan um"),
        ({"x": 5.0, "z": 500.0}, "z is 500.0 um"),
    ],
)
def test_a_target_beyond_a_limit_is_refused_and_nothing_moves(targets, message):
    stage, _ = make()
    with pytest.raises(StageLimitError, match=message):
        stage.move(**targets)
    assert not stage.moving()


def test_an_unknown_axis_is_refused():
    stage, _ = make()
    with pytest.raises(StageError, match="no axis 'phi'; there are x, y, z, tilt"):
        stage.move(phi=3)


def test_wait_gives_up_after_its_time_out():
    stage, clock = make()
    stage.move(x=1000.0)
    with pytest.raises(StageTimeoutError, match=r"still moves after 0\.2 s"):
        stage.wait(0.2)
    assert clock() - 100 == pytest.approx(0.2, abs=0.01)


def test_wait_ends_when_another_thread_stops_the_stage():
    stage, clock = make()
    stage.set_speed("x", 1.0)
    stage.move(x=1000.0)
    slept = clock.sleep

    def sleep_and_stop(seconds):
        slept(seconds)
        if clock() > 102:
            thread = threading.Thread(target=stage.stop)
            thread.start()
            thread.join()

    stage._clock._sleep = sleep_and_stop
    stage.wait(1e4)
    assert clock() < 103


def test_a_stalled_axis_stops_half_way_and_says_so_until_it_is_moved_again():
    stage, _ = make()
    stage._faults.set("stage_stall", count=1)
    stage.move(x=100.0)
    with pytest.raises(StageStalledError, match=r"x stalled at \d+\.\d+ um; move it again"):
        stage.wait()
    assert 20 < stage.position()["x"] < 80
    assert set(stage.stalled()) == {"x"}
    send(stage, x=100.0)
    assert stage.position()["x"] == pytest.approx(100)
    assert stage.stalled() == {}


# -- errors -----------------------------------------------------------------------------------


def test_the_readback_knows_the_command_but_for_its_noise():
    stage, _ = make(x={"encoder_noise": 0.004}, repeatable_error=0.6, vibration=0.2)
    send(stage, x=40.0)
    readings = np.array([stage.position()["x"] for _ in range(2000)])
    assert readings.mean() == pytest.approx(40, abs=0.0005)
    assert readings.std() == pytest.approx(0.004, rel=0.1)
    assert abs(stage.true_position()["x"] - 40) > 0.02


def test_the_repeatable_error_repeats_from_either_side_and_differs_from_place_to_place():
    stage, clock = make(repeatable_error=0.6, screw_error=0.14)
    found = []
    for x in (50.0, 200.0, 50.0, -300.0, 50.0):
        send(stage, x=x)
        clock.sleep(1)
        found.append(stage.true_position()["x"] - x)
    assert found[0] == pytest.approx(found[2], abs=1e-9) == pytest.approx(found[4], abs=1e-9)
    assert abs(found[0] - found[1]) > 0.01
    other, _ = make(seed=2, repeatable_error=0.6, screw_error=0.14)
    send(other, x=50.0)
    assert abs(other.true_position()["x"] - 50 - found[0]) > 0.01


def _errors(seed, shape=(6, 6), pitch=7.13):
    """Errors of position over a montage at 4 nm/px with all defaults, in px."""
    stage, _ = make(
        seed=seed,
        repeatable_error=StageSettings().repeatable_error,
        screw_error=StageSettings().screw_error,
    )
    grid = [(np.arange(n) - (n - 1) / 2) * pitch for n in shape]
    x, y = np.meshgrid(grid[1], grid[0])
    return stage._error.at(x.ravel(), y.ravel()).reshape(2, *shape) / 0.004


def test_default_errors_are_as_large_as_a_stitcher_has_to_bear_and_no_larger():
    size, pairs, along = [], [], []
    for seed in range(40):
        error = _errors(seed)
        about = error - error.mean(axis=(1, 2), keepdims=True)
        size.append(np.sqrt((about**2).sum(axis=0).mean()))
        for axis in (1, 2):
            difference = np.diff(error, axis=axis)
            pairs.append(np.hypot(*difference).ravel())
            along.append(np.abs(difference).ravel())
    pairs, along = np.concatenate(pairs), np.concatenate(along)
    assert np.median(size) > 100
    assert np.mean((pairs > 20) & (pairs < 150)) > 0.8
    assert pairs.max() < 255
    assert np.percentile(along, 99.9) < 190, "an overlap of 10 % (205 px) is to remain"
    about = _errors(1) - _errors(1).mean(axis=(1, 2), keepdims=True)
    assert np.sqrt((about**2).sum(axis=0).mean()) > 100, "with the default seed too"


def test_backlash_is_the_difference_between_coming_from_left_and_right():
    stage, _ = make(x={"backlash": 0.3})
    send(stage, x=-10.0)
    send(stage, x=5.0)
    from_left = stage.true_position()["x"]
    send(stage, x=20.0)
    send(stage, x=5.0)
    from_right = stage.true_position()["x"]
    assert from_right - from_left == pytest.approx(0.3)
    send(stage, x=5.1)
    assert stage.true_position()["x"] == pytest.approx(from_right), "within the play it stays"
    send(stage, x=6.0)
    assert stage.true_position()["x"] == pytest.approx(6 - 0.15)


def test_jitter_is_new_in_every_move():
    stage, _ = make(x={"jitter": 0.05})
    found = []
    for i in range(300):
        send(stage, x=float(i % 2))
        found.append(stage.true_position()["x"] - i % 2)
    assert np.std(found) == pytest.approx(0.05, rel=0.15)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.2


def test_vibration_rings_after_a_move_and_dies_away():
    stage, clock = make(vibration=0.2, vibration_decay=0.05, vibration_frequency=40.0)
    send(stage, x=10.0)
    start = stage._clock.now()
    t = start + np.arange(0, 0.5, 1e-3)
    shaking = stage.true_path(t)["x"] - 10
    envelope = [np.abs(shaking[i : i + 50]).max() for i in range(0, 250, 50)]
    ratios = np.divide(envelope[1:], envelope[:-1])
    np.testing.assert_allclose(ratios, np.exp(-1), rtol=0.05)
    assert 0.1 < envelope[0] < 0.2
    spectrum = np.abs(np.fft.rfft(shaking))
    assert np.fft.rfftfreq(t.size, 1e-3)[spectrum.argmax()] == pytest.approx(40, abs=3)
    across = stage.true_path(t)["y"]
    assert np.abs(across).max() == pytest.approx(0.3 * np.abs(shaking).max(), rel=0.05)
    clock.sleep(2)
    assert stage.true_position()["x"] == pytest.approx(10, abs=1e-6)


def test_defaults_have_settled_to_a_pixel_after_a_tenth_of_a_second():
    stage, _ = make(vibration=StageSettings().vibration)
    send(stage, x=7.0)
    now = stage._clock.now()
    assert np.abs(stage.true_path(now + np.linspace(0.1, 0.3, 300))["vibration_x"]).max() < 0.004
    assert np.abs(stage.true_path(now + np.linspace(0, 0.02, 50))["vibration_x"]).max() > 0.04


def test_drift_settles_with_its_time_constant():
    stage, clock = make(drift=[0.5, -0.2], drift_time=60.0)
    clock.sleep(60)
    here = stage.true_position()
    assert (here["x"], here["y"]) == pytest.approx((0.5 * (1 - 1 / np.e), -0.2 * (1 - 1 / np.e)))


# -- apertures --------------------------------------------------------------------------------


def test_the_changer_winds_past_each_aperture_and_takes_its_time():
    stage, clock = make(n_apertures=5, aperture_time=0.8)
    stage.go_to_aperture(4)
    seen = []
    while stage.aperture_moving():
        seen.append(stage.aperture)
        clock.sleep(0.1)
    assert sorted(set(seen)) == [1, 2, 3]
    assert seen == sorted(seen)
    assert stage.aperture == 4
    assert clock() - 100 == pytest.approx(2.4, abs=0.11)


def test_stop_ends_a_change_of_aperture():
    stage, clock = make(n_apertures=5)
    stage.go_to_aperture(5)
    clock.sleep(1.0)
    stage.stop()
    assert not stage.aperture_moving()
    assert stage.aperture == 2


def test_the_tape_stops_a_little_elsewhere_each_time():
    stage, _ = make(n_apertures=2, aperture_jitter=3.0)
    assert stage.true_position()["x"] == 0
    found = []
    for i in range(60):
        stage.go_to_aperture(2 - i % 2)
        stage.wait()
        found.append(stage.true_position()["x"])
    assert np.std(found) == pytest.approx(3, rel=0.3)


@pytest.mark.parametrize("number", [0, 3, -1, 1.5])
def test_an_aperture_that_is_not_there_is_refused(number):
    stage, _ = make(n_apertures=2)
    with pytest.raises(StageLimitError, match="it must be a whole number from 1 to 2"):
        stage.go_to_aperture(number)
