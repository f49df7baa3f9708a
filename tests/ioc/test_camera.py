"""The camera end to end: stock ophyd classes, stock plans, files read while they are written."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import bluesky.plans as bp
import h5py
import hdf5plugin  # noqa: F401  # reads what is compressed
import numpy as np
import pytest
from bluesky import RunEngine

from ioc.camera.measure import sharpness
from tests.ioc.clients import make_detector, make_motor, refusal
from tests.ioc.conftest import COUNT, SHAPE
from tests.support import get, put, wait_until

DATA = "entry/data/data"
UNIQUE_ID = "entry/instrument/NDAttributes/NDArrayUniqueId"
TIME_STAMP = "entry/instrument/NDAttributes/NDArrayTimeStamp"


@pytest.fixture(scope="module")
def det(replay):
    return make_detector(replay)


@pytest.fixture(scope="module")
def motors(replay):
    return make_motor(replay, "X"), make_motor(replay, "Y")


@pytest.fixture
def run():
    """Run a plan; give its documents by name."""
    engine = RunEngine(context_managers=[])

    def _run(plan):
        documents: dict[str, list] = {}
        token = engine.subscribe(lambda name, doc: documents.setdefault(name, []).append(doc))
        engine(plan)
        engine.unsubscribe(token)
        return documents

    return _run


def file_of(documents) -> Path:
    (resource,) = documents["resource"]
    return Path(resource["root"]) / resource["resource_path"]


class TestStockPlans:
    def check(self, documents, pixels, count):
        """The file has a frame for each event, and it is the one that the event tells of."""
        assert documents["stop"][0]["exit_status"] == "success"
        assert len(documents["event"]) == count
        with h5py.File(file_of(documents), "r") as file:
            data, ids = file[DATA], file[UNIQUE_ID][:]
            assert data.shape == (count, *SHAPE)
            assert data.chunks == (1, *SHAPE)
            assert data.dtype == np.uint16
            for point, event in zip(documents["datum"], documents["event"], strict=True):
                index = point["datum_kwargs"]["point_number"]
                frame = pixels[(ids[index] - 1) % COUNT]
                np.testing.assert_array_equal(data[index], frame)
                mean = event["data"]["det_stats_mean_value"]
                assert mean == pytest.approx(frame.mean(), abs=0.01)
        assert (np.diff(ids) == 1).all()

    def test_count(self, det, run, pixels):
        self.check(run(bp.count([det], 6)), pixels, 6)

    def test_scan(self, det, motors, run, pixels):
        documents = run(bp.scan([det], motors[0], -5, 5, 4))
        self.check(documents, pixels, 4)
        positions = [event["data"]["x"] for event in documents["event"]]
        np.testing.assert_allclose(positions, np.linspace(-5, 5, 4), atol=1e-3)

    def test_grid_scan(self, det, motors, run, pixels):
        x, y = motors
        self.check(run(bp.grid_scan([det], y, 0, 4, 2, x, 0, 6, 3, snake_axes=True)), pixels, 6)

    def test_adaptive_scan(self, det, motors, run, pixels):
        plan = bp.adaptive_scan(
            [det], "det_stats_mean_value", motors[0], 0, 20, 2, 8, 500, backstep=False
        )
        documents = run(plan)
        self.check(documents, pixels, len(documents["event"]))
        assert 3 <= len(documents["event"]) <= 11

    def test_data_key_tells_shape_and_type(self, det, run):
        key = run(bp.count([det], 1))["descriptor"][0]["data_keys"]["det_image"]
        assert key["shape"] == [1, *SHAPE] or tuple(key["shape"]) == (1, *SHAPE)
        assert key["dtype_numpy"] == "<u2"

    def test_several_images_a_point(self, det, run):
        det.cam.stage_sigs["num_images"] = 3
        try:
            documents = run(bp.count([det], 2))
        finally:
            del det.cam.stage_sigs["num_images"]
        assert documents["resource"][0]["resource_kwargs"]["frame_per_point"] == 3
        with h5py.File(file_of(documents), "r") as file:
            assert file[DATA].shape[0] == 6
            assert (np.diff(file[UNIQUE_ID][:]) == 1).all()


class TestPlugins:
    def test_preview(self, det, run):
        run(bp.count([det], 1))
        image = det.image.image
        assert image.shape == det.image.shaped_image.get().shape == (1, *SHAPE)
        assert image.dtype == np.uint8
        assert image.min() < 20
        assert image.max() > 235

    def test_statistics(self, replay, pixels):
        prefix = f"{replay.prefix}CAM:"
        put(f"{prefix}cam1:Acquire", 1)
        frame = pixels[(get(f"{prefix}cam1:ArrayCounter_RBV") - 1) % COUNT]
        rows, columns = np.indices(frame.shape)
        expected = {
            "MinValue": frame.min(),
            "MaxValue": frame.max(),
            "MeanValue": frame.mean(),
            "Sigma": frame.std(),
            "Total": frame.sum(),
            "CentroidX": (columns * frame).sum() / frame.sum(),
            "CentroidY": (rows * frame).sum() / frame.sum(),
            "Sharpness": sharpness(frame),
        }
        for name, value in expected.items():
            assert get(f"{prefix}Stats1:{name}_RBV") == pytest.approx(value, rel=1e-5), name
        histogram = get(f"{prefix}Stats1:Histogram_RBV")
        np.testing.assert_array_equal(histogram, np.histogram(frame, 256, (0, 65535))[0])
        for plugin in ("Stats1", "image1", "HDF1"):
            number = get(f"{prefix}{plugin}:UniqueId_RBV")
            assert number == get(f"{prefix}cam1:ArrayCounter_RBV")

    def test_plugins_that_do_not_block_come_up_to_date(self, replay):
        prefix = f"{replay.prefix}CAM:"
        put(f"{prefix}Stats1:BlockingCallbacks", "No")
        put(f"{prefix}cam1:Acquire", 1)
        number = get(f"{prefix}cam1:ArrayCounter_RBV")
        wait_until(lambda: get(f"{prefix}Stats1:UniqueId_RBV") == number, 5, "the last frame")
        put(f"{prefix}Stats1:BlockingCallbacks", "Yes")


class TestCompression:
    @pytest.fixture
    def hdf(self, replay):
        prefix = f"{replay.prefix}CAM:HDF1:"
        put(f"{prefix}Compression", "Blosc")
        yield prefix
        put(f"{prefix}Capture", 0)
        put(f"{prefix}Compression", "None")

    def test_frames_are_smaller_and_the_same(self, hdf, det, run, pixels):
        documents = run(bp.count([det], 3))
        with h5py.File(file_of(documents), "r") as file:
            data = file[DATA]
            assert data.shape == (3, *SHAPE)
            for index, number in enumerate(file[UNIQUE_ID]):
                np.testing.assert_array_equal(data[index], pixels[(number - 1) % COUNT])
                assert data.id.get_chunk_info(index).size < 0.95 * pixels[0].nbytes

    def test_it_cannot_change_in_a_file(self, hdf):
        put(f"{hdf}Capture", 1)
        assert "HDF1 is capturing" in refusal(f"{hdf}Compression", "None")
        assert get(f"{hdf}Compression_RBV", text=True) == "Blosc"


class TestModes:
    @pytest.fixture
    def cam(self, replay):
        prefix = f"{replay.prefix}CAM:cam1:"
        put(f"{prefix}AcquireTime", 0.01)
        yield prefix
        put(f"{prefix}Acquire", 0)
        for name, value in {
            "ImageMode": "Single", "NumImages": 1, "AcquirePeriod": 0, "BinX": 1, "MinX": 0,
            "MinY": 0, "SizeX": SHAPE[1], "SizeY": SHAPE[0], "DataType": "UInt16",
        }.items():  # fmt: skip
            put(f"{prefix}{name}", value)

    def test_multiple_keeps_its_period(self, cam):
        put(f"{cam}ImageMode", "Multiple")
        put(f"{cam}NumImages", 5)
        put(f"{cam}AcquirePeriod", 0.1)
        first = get(f"{cam}ArrayCounter_RBV")
        began = time.monotonic()
        put(f"{cam}Acquire", 1)
        assert 0.4 < time.monotonic() - began < 2
        assert get(f"{cam}ArrayCounter_RBV") - first == get(f"{cam}NumImagesCounter_RBV") == 5
        assert get(f"{cam}DetectorState_RBV", text=True) == "Idle"

    def test_continuous_runs_until_it_is_stopped(self, cam):
        put(f"{cam}ImageMode", "Continuous")
        first = get(f"{cam}ArrayCounter_RBV")
        put(f"{cam}Acquire", 1, wait=False)
        wait_until(lambda: get(f"{cam}ArrayCounter_RBV") > first + 10, 10, "ten frames")
        assert get(f"{cam}Acquire_RBV") == 1
        put(f"{cam}Acquire", 0)
        assert get(f"{cam}Acquire_RBV") == get(f"{cam}Acquire") == 0
        last = get(f"{cam}ArrayCounter_RBV")
        assert get(f"{cam}ArrayCounter_RBV") == last

    def test_abort_ends_a_long_exposure(self, cam):
        put(f"{cam}AcquireTime", 20)
        put(f"{cam}Acquire", 1, wait=False)
        wait_until(lambda: 0 < get(f"{cam}TimeRemaining_RBV") < 19.9, 5, "it counts down")
        assert get(f"{cam}DetectorState_RBV", text=True) == "Acquire"
        began = time.monotonic()
        put(f"{cam}Acquire", 0)
        assert time.monotonic() - began < 1
        assert get(f"{cam}DetectorState_RBV", text=True) == "Aborted"
        assert get(f"{cam}TimeRemaining_RBV") == 0

    def test_what_is_written_last_holds(self, cam):
        """Written without a pause: to begin anew while it stops, and to stop after all."""
        put(f"{cam}AcquireTime", 0.2)
        first = get(f"{cam}ArrayCounter_RBV")
        for wanted in (1, 0, 1):
            put(f"{cam}Acquire", wanted, wait=False)
        put(f"{cam}Acquire", 1)
        assert get(f"{cam}DetectorState_RBV", text=True) == "Idle"
        second = get(f"{cam}ArrayCounter_RBV")
        assert second > first
        put(f"{cam}AcquireTime", 20.0)
        for wanted in (1, 0, 1):
            put(f"{cam}Acquire", wanted, wait=False)
        put(f"{cam}Acquire", 0)
        assert get(f"{cam}DetectorState_RBV", text=True) == "Aborted"
        assert get(f"{cam}Acquire_RBV") == 0
        assert get(f"{cam}NumImagesCounter_RBV") == 0
        put(f"{cam}AcquireTime", 0.2)

    def test_binning_changes_the_size_everywhere(self, cam):
        put(f"{cam}BinX", 2)
        assert get(f"{cam}BinY_RBV") == 2
        assert get(f"{cam}ArraySizeX_RBV") == SHAPE[1] // 2
        assert get(f"{cam}ArraySizeY_RBV") == SHAPE[0] // 2
        hdf = cam.replace("cam1", "HDF1")
        assert get(f"{hdf}ArraySize0_RBV") == SHAPE[1] // 2
        assert "nearest that exists is" in refusal(f"{cam}BinX", 3)
        put(f"{cam}Acquire", 1)
        assert get(f"{cam}DetectorState_RBV", text=True) == "Idle"

    def test_region(self, cam):
        put(f"{cam}SizeX", 64)
        put(f"{cam}MinX", 32)
        assert "beyond 128 px" in refusal(f"{cam}MinX", 100)
        assert "beyond 128 px" in refusal(f"{cam}SizeX", 100)
        put(f"{cam}Acquire", 1)
        assert get(f"{cam}ArraySize_RBV") == 64 * SHAPE[0] * 2

    def test_pixel_types(self, cam):
        put(f"{cam}DataType", "UInt8")
        assert get(f"{cam}DataType_RBV.DISA") == 0
        put(f"{cam}Acquire", 1)
        assert get(f"{cam}ArraySize_RBV") == SHAPE[0] * SHAPE[1]
        assert get(cam.replace("cam1", "Stats1") + "MaxValue_RBV") < 256
        assert "this camera has UInt8, UInt16" in refusal(f"{cam}DataType", "Float32")

    def test_readout_stays_while_it_acquires(self, cam):
        put(f"{cam}AcquireTime", 5)
        put(f"{cam}Acquire", 1, wait=False)
        wait_until(lambda: get(f"{cam}Acquire_RBV") == 1, 5)
        assert "acquiring" in refusal(f"{cam}BinX", 2)

    def test_frame_number_cannot_be_set(self, cam):
        assert "cannot be set" in refusal(f"{cam}ArrayCounter", 0)

    def test_fast_series_does_not_flood_the_server(self, cam, replay):
        put(f"{cam}AcquireTime", 0.001)
        put(f"{cam}ImageMode", "Continuous")
        put(f"{cam}Acquire", 1, wait=False)
        try:
            wait_until(lambda: get(f"{cam}NumImagesCounter_RBV") > 50, 10, "frames")
            began = time.monotonic()
            for _ in range(20):
                get(f"{replay.prefix}SCOPE:Defocus_RBV")
            assert time.monotonic() - began < 2
        finally:
            put(f"{cam}Acquire", 0)

    def test_temperature(self, cam):
        put(f"{cam}Temperature", -15)
        wait_until(lambda: get(f"{cam}TemperatureActual") == -15, 5, "the sensor follows")


class TestWritingAndReading:
    def test_file_is_readable_while_it_is_written(self, start_ioc, images, pixels):
        ioc = start_ioc(driver="replay", folder=str(images))
        prefix = f"{ioc.prefix}CAM:"
        put(f"{prefix}cam1:AcquireTime", 0.02)
        put(f"{prefix}cam1:ImageMode", "Multiple")
        put(f"{prefix}cam1:NumImages", 40)
        put(f"{prefix}HDF1:Capture", 1)
        path = get(f"{prefix}HDF1:FullFileName_RBV", text=True)
        with h5py.File(path, "r", libver="latest", swmr=True) as file:
            assert file[DATA].shape == (0, *SHAPE)
            writing = threading.Thread(
                target=put, args=(f"{prefix}cam1:Acquire", 1), kwargs={"timeout": 30}, daemon=True
            )
            writing.start()
            seen = 0
            while seen < 40:
                file[UNIQUE_ID].id.refresh()
                file[DATA].id.refresh()
                ids = file[UNIQUE_ID][:]
                for index in range(seen, len(ids)):
                    # Who sees a frame's number has the frame.
                    expected = pixels[(ids[index] - 1) % COUNT]
                    np.testing.assert_array_equal(file[DATA][index], expected)
                assert writing.is_alive() or len(ids) == 40
                seen = len(ids)
            assert len(set(ids.tolist())) == 40
            file[TIME_STAMP].id.refresh()
            assert (np.diff(file[TIME_STAMP][:]) > 0).all()
        writing.join(10)
        assert get(f"{prefix}HDF1:NumCaptured_RBV") == 40
        assert get(f"{prefix}HDF1:SWMRActive_RBV", text=True) == "Active"

    def test_frame_is_on_disk_when_acquire_falls(self, replay):
        prefix = f"{replay.prefix}CAM:"
        put(f"{prefix}HDF1:FileName", "flushed")
        put(f"{prefix}HDF1:Capture", 1)
        path = get(f"{prefix}HDF1:FullFileName_RBV", text=True)
        for count in (1, 2, 3):
            put(f"{prefix}cam1:Acquire", 1)
            with h5py.File(path, "r", libver="latest", swmr=True) as file:
                assert len(file[DATA]) == len(file[UNIQUE_ID]) == count
                assert file[UNIQUE_ID][-1] == get(f"{prefix}cam1:ArrayCounter_RBV")
        put(f"{prefix}HDF1:Capture", 0)
