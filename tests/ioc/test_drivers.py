"""The drivers that come with temline, against the contract, and what is peculiar to each."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ioc.drivers.protocol import DriverError, Readout, Setting, connect
from ioc.drivers.simulated import make_specimen
from tests.ioc.driver_contract import DriverContract


class TestReplay(DriverContract):
    @pytest.fixture
    def instrument(self, images):
        instrument = connect("replay", {"folder": str(images), "aperture_count": 3})
        yield instrument
        instrument.close()

    def test_frames_are_the_images_in_order(self, instrument, pixels):
        camera = instrument.camera
        for expected in [*pixels, pixels[0]]:
            camera.expose(0.001, self.readout(camera))
            np.testing.assert_array_equal(camera.read_frame().data, expected)

    def test_frame_without_an_exposure_is_an_error(self, instrument):
        with pytest.raises(DriverError, match="no exposure"):
            instrument.camera.read_frame()

    def test_eight_bits_are_the_upper_ones(self, instrument, pixels):
        camera = instrument.camera
        camera.expose(0.001, Readout(1, "UInt8", (0, 0, *camera.sensor_shape)))
        np.testing.assert_array_equal(camera.read_frame().data, pixels[0] >> 8)


class TestReplayFolders:
    def test_tiff_and_eight_bit_images(self, tmp_path):
        image = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) % 256
        cv2.imwrite(str(tmp_path / "a.tif"), image.astype(np.uint8))
        camera = connect("replay", {"folder": tmp_path}).camera
        camera.expose(0.001, Readout(1, "UInt16", (0, 0, 64, 64)))
        np.testing.assert_array_equal(camera.read_frame().data, image * 257)

    def test_empty_folder_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no \.png"):
            connect("replay", {"folder": tmp_path})

    def test_images_must_be_of_one_size(self, tmp_path):
        for i, side in enumerate((64, 32)):
            cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((side, side), np.uint16))
        camera = connect("replay", {"folder": tmp_path}).camera
        readout = Readout(1, "UInt16", (0, 0, 64, 64))
        camera.expose(0.001, readout)
        camera.read_frame()
        camera.expose(0.001, readout)
        with pytest.raises(DriverError, match=r"1\.png has shape \(32, 32\); the first had"):
            camera.read_frame()


def test_unknown_options_and_drivers_are_refused(images):
    with pytest.raises(ValueError, match="replay knows"):
        connect("replay", {"folder": images, "pixelsize": 1})
    with pytest.raises(ValueError, match="must be one of simulated, replay"):
        connect("simulatd", {})
    with pytest.raises(ValueError, match="must be one of simulated, replay"):
        connect("ioc.drivers.replay:konnect", {})


def test_a_section_that_repeats_gives_the_same_frame_a_period_further():
    section = make_specimen("neuropil", 3, None, 1, period=16.4)
    here = section.native_region(1.0, 2.0, 0.5, 0.5, 4).pixels
    there = section.native_region(1.0 + 40 * 16.384, 2.0 - 16.384, 0.5, 0.5, 4).pixels
    np.testing.assert_array_equal(here, there)
    unlike = make_specimen("neuropil", 3, None, 1).native_region(17.384, 2.0, 0.5, 0.5, 4).pixels
    assert (unlike != here).mean() > 0.5


def test_only_neuropil_can_repeat():
    with pytest.raises(ValueError, match="specimen_period is 20.0; only neuropil can repeat"):
        connect("simulated", {"specimen": "points", "specimen_period": 20.0})
    with pytest.raises(ValueError, match="period is -5 µm; it must be positive"):
        connect("simulated", {"specimen_period": -5})


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (Setting("float", -1, 1, "um"), 2, r"A is 2 um; it must lie between -1 and 1 um"),
        (Setting("float", -1, 1, "um"), float("nan"), r"must lie between -1 and 1"),
        (Setting("int", 0, 9), 1.5, r"whole number"),
        (Setting("int", 1, 9, values=(1, 4, 9)), 5, r"nearest that exists is 4 \(all: 1, 4, 9\)"),
        (Setting("enum", choices=("Up", "Down")), "up", r"must be one of Up, Down"),
    ],
)
def test_settings_refuse_and_say_why(setting, value, message):
    with pytest.raises(ValueError, match=message):
        setting.check("A", value)


def test_settings_give_their_own_type():
    assert type(Setting("int", 0, 9).check("A", 3.0)) is int
    assert type(Setting("float", 0, 9).check("A", 3)) is float


class TestSimulated(DriverContract):
    @pytest.fixture
    def instrument(self):
        camera = {"sensor": [128, 192], "readout_time": 0.05}
        instrument = connect("simulated", {"camera": camera, "specimen": "points", "seed": 3})
        yield instrument
        instrument.close()

    def test_tells_the_numbers_of_its_settings(self, instrument):
        assert instrument.camera.readout_time(self.readout(instrument.camera)) == 0.05
        assert instrument.stage.axes["x"].acceleration == 20_000
        assert instrument.stage.axes["z"].acceleration == 500
