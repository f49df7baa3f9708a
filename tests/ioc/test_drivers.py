"""The drivers that come with temline, against the contract, and what is peculiar to each."""

from __future__ import annotations

import cv2
import mrcfile
import numpy as np
import pytest

from ioc.drivers.protocol import DriverError, Readout, Setting, connect
from ioc.drivers.simulated import check, make_specimen
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


@pytest.fixture
def micrograph(tmp_path):
    """Write an image of 100 × 120 px, whose file tells the size of its pixels, in nm."""

    def write(pixel_size):
        rows = np.random.default_rng(0).integers(0, 255, (100, 120)).astype(np.uint16)
        with mrcfile.new(tmp_path / "a.mrc") as file:
            file.set_data(rows)
            file.voxel_size = 10 * pixel_size
        return str(tmp_path / "a.mrc"), rows[::-1]

    return write


def test_an_image_is_the_specimen_at_the_size_that_its_file_tells(micrograph):
    path, rows = micrograph(20.0)
    specimen = make_specimen(path, 0, None, 1)
    assert specimen.shape == (100, 120)
    assert specimen.pixel_size == pytest.approx(20.0)
    seen = specimen.region(0, 0, 120, 100, 20.0)
    assert np.corrcoef(seen.ravel(), rows.ravel())[0, 1] > 0.95
    assert make_specimen(path, 0, 50.0, 1).pixel_size == 50.0


@pytest.mark.parametrize(
    ("pixel_size", "fits"), [(0.16, False), (4.0, False), (6.0, True), (60.0, True), (600.0, False)]
)
def test_an_image_that_does_not_fit_a_tile_is_refused(micrograph, pixel_size, fits):
    """A tile of 256 px at 4 nm shows 1.02 µm; less of an image than half of that repeats in it."""
    options = {"specimen": micrograph(pixel_size)[0], "sensor": [256, 256]}
    if fits:
        check(options)
        return
    with pytest.raises(ValueError, match="set specimen_pixel_size .* to 5.12 to 128 nm"):
        check(options)
    with pytest.raises(ValueError, match="and a tile 1.02 µm: set specimen_pixel_size"):
        connect("simulated", options)
    check(options | {"specimen_pixel_size": 10.0})


def test_small_images_are_enlarged_where_no_size_is_told(tmp_path):
    rows = np.random.default_rng(0).integers(0, 255, (100, 120)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), rows)
    check({"specimen": str(tmp_path / "a.png"), "sensor": [2048, 2048]})


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "letter.tif").write_text("not an image")
    for name, message in (
        (tmp_path / "letter.tif", r"letter\.tif is no image that temline reads; expected TIFF"),
        (tmp_path, r"is a folder; expected the file of an image"),
        (tmp_path / "none.tif", r"none\.tif'; it must be neuropil, points, tape or the path"),
    ):
        with pytest.raises(ValueError, match=message):
            check({"specimen": str(name)})
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((64, 64), 7, np.uint8))
    with pytest.raises(ValueError, match=r"flat\.png: the image is constant"):
        check({"specimen": str(tmp_path / "flat.png")})


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
