"""What every driver must do, as tests: subclass `DriverContract` and give it an instrument.

These tests move and set real things if the driver is a real one: see docs/writing-a-driver.md.
"""

from __future__ import annotations

import threading
import time
from math import sqrt

import numpy as np
import pytest

from ioc.drivers.protocol import (
    CameraDriver,
    ColumnDriver,
    DriverError,
    Instrument,
    Readout,
    StageDriver,
)
from tests.support import wait_until


class DriverContract:
    """The contract; `instrument` is a fixture that a subclass defines."""

    exposure = 0.02  # s
    tolerance = 0.05  # of a position, in the axis's units
    move_time = 20.0  # s

    @pytest.fixture
    def instrument(self) -> Instrument:
        raise AssertionError("give the instrument of the driver to be tested")

    @staticmethod
    def readout(camera: CameraDriver, binning: int = 1) -> Readout:
        return Readout(binning, camera.pixel_types[-1], (0, 0, *camera.sensor_shape))

    # -- column -----------------------------------------------------------------------------------

    def test_column_has_all_settings_it_names(self, instrument):
        column = instrument.column
        assert isinstance(column, ColumnDriver)
        reading = column.read()
        assert set(reading.settings) == set(column.settings)
        for name, setting in column.settings.items():
            assert setting.check(name, reading.settings[name]) == reading.settings[name]

    def test_column_settings_read_back(self, instrument):
        column = instrument.column
        for name, setting in column.settings.items():
            if setting.kind != "float":
                continue
            before = column.read().settings[name]
            wanted = before + 0.25 * (setting.high - before)
            column.write(name, wanted)
            assert column.read().settings[name] == pytest.approx(wanted, rel=1e-3)
            column.write(name, before)

    def test_column_geometry_follows_the_table(self, instrument):
        column = instrument.column
        assert column.settings["magnification"].values == tuple(
            sorted({line.magnification for line in column.magnifications})
        )
        for line in column.magnifications:
            column.write("magnification", line.magnification)
            geometry = column.read().geometry
            assert geometry.magnification == line.magnification
            assert geometry.pixel_size == line.pixel_size > 0
            assert column.read().settings["mag_mode"] == line.mode

    def test_column_can_be_made_safe(self, instrument):
        instrument.column.make_safe()
        settings = instrument.column.read().settings
        assert (settings["blank"], settings["screen"]) == ("On", "Down")

    # -- stage ------------------------------------------------------------------------------------

    def arrive(self, stage: StageDriver, **targets: float) -> None:
        stage.move(targets)
        wait_until(lambda: not stage.read().moving, self.move_time, f"arrival at {targets}")
        for name, target in targets.items():
            assert stage.read().position[name] == pytest.approx(target, abs=self.tolerance)

    def test_stage_moves_each_axis(self, instrument):
        stage = instrument.stage
        assert isinstance(stage, StageDriver)
        for name, axis in stage.axes.items():
            start = stage.read().position[name]
            assert axis.low <= start <= axis.high
            self.arrive(stage, **{name: start + 0.01 * (axis.high - axis.low)})
            self.arrive(stage, **{name: start})

    def test_stage_tells_of_motion_from_the_start(self, instrument):
        stage = instrument.stage
        stage.move({"x": stage.axes["x"].high})
        reading = stage.read()
        assert "x" in reading.moving
        assert "y" not in reading.moving
        assert reading.position["x"] < stage.axes["x"].high
        stage.stop()

    def test_stage_moves_of_no_length_end(self, instrument):
        stage = instrument.stage
        self.arrive(stage, x=1.0)
        self.arrive(stage, x=1.0)

    def test_stage_stops_short_of_its_target(self, instrument):
        stage = instrument.stage
        target = stage.axes["x"].high
        stage.move({"x": target})
        stage.stop(["x"])
        wait_until(lambda: not stage.read().moving, self.move_time, "the stop")
        assert abs(stage.read().position["x"] - target) > self.tolerance

    def test_stage_takes_a_new_target_in_motion(self, instrument):
        stage = instrument.stage
        stage.move({"x": stage.axes["x"].high})
        self.arrive(stage, x=5.0)

    def test_stage_speed_counts(self, instrument):
        stage = instrument.stage
        axis = stage.axes["x"]
        self.arrive(stage, x=0.0)
        stage.set_speed("x", axis.max_speed / 100)
        stage.move({"x": axis.max_speed / 100})
        time.sleep(0.3)  # at this speed the way takes a second, at any speed of old less
        assert "x" in stage.read().moving
        stage.stop()
        stage.set_speed("x", axis.speed)

    def test_stage_tells_how_long_a_move_takes(self, instrument):
        stage = instrument.stage
        assert all(axis.acceleration > 0 for axis in stage.axes.values())
        x = stage.axes["x"]
        self.arrive(stage, x=0.0)
        stage.set_speed("x", x.speed)
        way = min(0.5 * x.speed, 0.5 * x.high)
        ramp = x.speed / x.acceleration
        reaches_speed = way > x.speed * ramp
        least = way / x.speed + ramp if reaches_speed else 2 * sqrt(way / x.acceleration)
        began = time.monotonic()
        self.arrive(stage, x=way)
        assert time.monotonic() - began > 0.98 * least
        self.arrive(stage, x=0.0)

    def test_stage_reading_is_quick(self, instrument):
        began = time.perf_counter()
        for _ in range(100):
            instrument.stage.read()
        assert time.perf_counter() - began < 1.0, "a hundred readings a second are asked for"

    def test_aperture_changer(self, instrument):
        stage = instrument.stage
        for number in (stage.aperture_count, 1):
            stage.go_to_aperture(number)
            wait_until(lambda: not stage.read().aperture_moving, self.move_time, "the aperture")
            assert stage.read().aperture == number

    # -- camera -----------------------------------------------------------------------------------

    def test_camera_gives_frames_as_asked(self, instrument):
        camera = instrument.camera
        assert isinstance(camera, CameraDriver)
        for pixel_type in camera.pixel_types:
            for binning in camera.binnings:
                height, width = camera.sensor_shape
                readout = Readout(binning, pixel_type, (0, 0, height, width))
                camera.expose(self.exposure, readout)
                data = camera.read_frame().data
                assert data.shape == readout.shape == (height // binning, width // binning)
                assert data.dtype == readout.dtype
                assert data.flags.c_contiguous

    def test_camera_cuts_out_regions(self, instrument):
        camera = instrument.camera
        height, width = camera.sensor_shape
        region = (height // 4, width // 8, height // 2, width // 4)
        camera.expose(self.exposure, Readout(1, camera.pixel_types[-1], region))
        assert camera.read_frame().data.shape == region[2:]

    def test_camera_numbers_its_frames(self, instrument):
        camera, numbers, times = instrument.camera, [], []
        for _ in range(3):
            camera.expose(self.exposure, self.readout(camera))
            frame = camera.read_frame()
            numbers.append(frame.number)
            times.append(frame.timestamp)
        assert numbers == sorted(set(numbers))
        assert times == sorted(times)
        assert abs(times[-1] - time.time()) < 5

    def test_camera_frames_are_not_written_over(self, instrument):
        camera, frames = instrument.camera, []
        for _ in range(2):
            camera.expose(self.exposure, self.readout(camera))
            frames.append(camera.read_frame().data)
        kept = frames[0].copy()
        camera.expose(self.exposure, self.readout(camera))
        camera.read_frame()
        np.testing.assert_array_equal(frames[0], kept)

    def test_camera_takes_no_less_than_its_readout_time(self, instrument):
        camera = instrument.camera
        readout = self.readout(camera)
        assert 0 <= camera.readout_time(readout) < 60
        began = time.monotonic()
        camera.expose(self.exposure, readout)
        camera.read_frame()
        assert time.monotonic() - began >= self.exposure + camera.readout_time(readout)

    def test_camera_exposure_blocks_and_can_be_aborted(self, instrument):
        camera = instrument.camera
        longest = min(5.0, camera.exposure_limits[1])
        threading.Timer(0.2, camera.abort).start()
        began = time.monotonic()
        with pytest.raises(DriverError):
            camera.expose(longest, self.readout(camera))
        assert 0.1 < time.monotonic() - began < 0.9 * longest
        camera.expose(self.exposure, self.readout(camera))
        assert camera.read_frame().data.size

    def test_camera_temperature(self, instrument):
        camera = instrument.camera
        low, high = camera.temperature_limits
        camera.set_temperature((low + high) / 2)
        assert -273 < camera.temperature() < 100

    # -- faults -----------------------------------------------------------------------------------

    def test_faults_can_be_counted(self, instrument):
        faults = instrument.faults
        if faults is None:
            return
        for name in faults.names:
            faults.set(name, True, 2)
            assert faults.active()[name] == 2
            faults.set(name, False)
            assert name not in faults.active()
        faults.set("disk_full", True, 1)
        with pytest.raises(OSError, match="No space left"):
            faults.check_storage()
        faults.check_storage()
