"""Finding and reading frames, also while the camera writes them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

from callbacks.frames import FrameError, FrameLocator, FrameReference, read_frame
from tests.callbacks.montage import SIDE, SimulatedMontage, raw_documents, write_frames
from tests.support import wait_until

SHAPE = (32, 48)
DATA = "/entry/data/data"
NUMBERS = "/entry/instrument/NDAttributes/NDArrayUniqueId"


def frame(number):
    return np.full(SHAPE, number, np.uint16)


def reference(path, start, number=None):
    return FrameReference(str(path), DATA, start, start + 1, number)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frames.h5"


@pytest.mark.parametrize("stream", [False, True], ids=["datum", "stream_datum"])
def test_events_are_located(data_folder, stream):
    montage = SimulatedMontage(data_folder)
    locator = FrameLocator()
    found = [one for name, doc in montage.documents(stream=stream) for one in locator(name, doc)]
    assert [one.event["data"]["tile_index"] for one in found] == list(range(6))
    for index, one in enumerate(found):
        place = one.frames["camera_image"]
        assert (one.stream, place.path) == ("primary", str(montage.path))
        assert (place.start, place.stop, place.number) == (index, index + 1, 100 + index)
        np.testing.assert_array_equal(read_frame(place), montage.frame(index, 1))
    assert locator.remaining() == []


def test_an_event_waits_for_its_datum(data_folder):
    documents = list(SimulatedMontage(data_folder).documents())
    datums = [item for item in documents if item[0] == "datum"]
    others = [item for item in documents if item[0] not in {"datum", "stop"}]
    locator = FrameLocator()
    assert not [one for item in others for one in locator(*item)]
    found = [one for item in reversed(datums) for one in locator(*item)]
    assert len(found) == 6
    assert found[0].frames["camera_image"].start == 5


def test_what_is_never_located_is_given_at_the_end(data_folder):
    documents = list(SimulatedMontage(data_folder).documents())
    locator = FrameLocator()
    for name, doc in documents:
        if name != "datum":
            assert not locator(name, doc)
    assert [dict(one.frames) for one in locator.remaining()] == [{}] * 6


def test_other_kinds_of_file_are_not_taken_for_hdf5(data_folder):
    locator = FrameLocator()
    for name, doc in SimulatedMontage(data_folder).documents():
        if name == "resource":
            doc["spec"] = "AD_TIFF"
        assert not locator(name, doc)
    assert len(locator.remaining()) == 6


def test_events_with_many_frames(path):
    write_frames(path, [frame(i) for i in range(6)])
    locator = FrameLocator()
    found = []
    for name, doc in raw_documents({}, path, [{"x": 1.0}, {"x": 2.0}], [0, 1], shape=SHAPE):
        if name == "resource":
            doc["resource_kwargs"]["frame_per_point"] = 3
        found += locator(name, doc)
    second = found[1].frames["camera_image"]
    assert len(second) == 3
    assert [int(read_frame(one)[0, 0]) for one in second] == [3, 4, 5]


def test_one_stream_datum_for_many_events(path):
    """As a flyer announces what it took."""
    write_frames(path, [frame(i) for i in range(4)])
    documents = list(raw_documents({}, path, [{"x": 0.0}] * 4, range(4), stream=True, shape=SHAPE))
    datum = next(doc for name, doc in documents if name == "stream_datum")
    datum["indices"], datum["seq_nums"] = {"start": 0, "stop": 4}, {"start": 1, "stop": 5}
    locator = FrameLocator()
    for name, doc in documents:
        if name not in {"stream_datum", "stop"}:
            assert not locator(name, doc)
    found = locator("stream_datum", datum)
    assert [int(read_frame(one.frames["camera_image"])[0, 0]) for one in found] == [0, 1, 2, 3]


def test_a_path_with_odd_characters(tmp_path):
    folder = tmp_path / "grid 7 µm #1"
    folder.mkdir()
    montage = SimulatedMontage(folder)
    from callbacks.documents import file_uri

    locator = FrameLocator()
    found = []
    for name, doc in montage.documents(stream=True):
        if name == "stream_resource":
            doc["uri"] = file_uri(montage.path)
        found += locator(name, doc)
    assert found[0].frames["camera_image"].path == str(montage.path)
    assert read_frame(found[0].frames["camera_image"]).shape == (SIDE, SIDE)


WRITER = """
import sys, h5py, numpy as np
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    data = file.create_dataset({data!r}, (0, {h}, {w}), np.uint16, maxshape=(None, {h}, {w}),
                               chunks=(1, {h}, {w}))
    numbers = file.create_dataset({numbers!r}, (0,), np.int32, maxshape=(None,), chunks=(16,))
    file.swmr_mode = True
    print("ready", flush=True)
    for line in sys.stdin:
        n = len(data)
        data.resize(n + 1, axis=0)
        data[n] = int(line)
        data.flush()
        numbers.resize(n + 1, axis=0)
        numbers[n] = int(line)
        numbers.flush()
        print("written", flush=True)
""".format(data=DATA, numbers=NUMBERS, h=SHAPE[0], w=SHAPE[1])


@pytest.fixture
def camera(path):
    """Another process that writes a frame, SWMR, for each line that it is given."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"

    def write(number):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()

    write.process = process
    yield write
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_a_frame_is_read_while_the_camera_writes(path, camera):
    camera(11)
    camera(12)
    np.testing.assert_array_equal(read_frame(reference(path, 0, 11)), frame(11))
    np.testing.assert_array_equal(read_frame(reference(path, 1)), frame(12))


def test_a_frame_that_comes_late_is_waited_for(path, camera):
    late = threading.Timer(0.3, camera, [21])
    late.start()
    began = time.monotonic()
    np.testing.assert_array_equal(read_frame(reference(path, 0, 21), timeout=20), frame(21))
    assert 0.2 < time.monotonic() - began < 10
    late.join()


def test_a_reader_does_not_lock_the_writer_out(path, camera):
    camera(1)
    reading = threading.Event()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            read_frame(reference(path, 0))
            reading.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(10)
    for number in range(2, 6):
        camera(number)
        assert camera.process.stdout.readline() == "written\n"
    assert int(read_frame(reference(path, 4, 5), timeout=10)[0, 0]) == 5
    stop.set()
    thread.join()


def test_a_file_that_this_process_has_open_with_locks(path):
    write_frames(path, [frame(1), frame(2)])
    with h5py.File(path, "r"):
        np.testing.assert_array_equal(read_frame(reference(path, 1)), frame(2))


@pytest.mark.parametrize("swmr", [False, True])
def test_old_and_new_files_are_read(path, swmr):
    with h5py.File(path, "w", libver="latest" if swmr else "earliest") as file:
        file[DATA] = np.stack([frame(5), frame(6)])
    np.testing.assert_array_equal(read_frame(reference(path, 1)), frame(6))


def test_the_number_of_a_frame_counts_more_than_its_place(path):
    write_frames(path, [frame(3), frame(4), frame(6)], [3, 4, 6])
    np.testing.assert_array_equal(read_frame(reference(path, 3, 6)), frame(6))


@pytest.mark.parametrize(
    ("place", "number", "says"),
    [
        (7, None, "holds 2 frames"),
        (0, 9, "holds the frame numbers 3 to 4"),
    ],
)
def test_a_frame_that_does_not_come(path, place, number, says):
    write_frames(path, [frame(3), frame(4)], [3, 4])
    with pytest.raises(FrameError, match=says):
        read_frame(reference(path, place, number), timeout=0.05)


def test_a_missing_file(path):
    with pytest.raises(FrameError, match="no such file"):
        read_frame(reference(path, 0), timeout=0.05)


def test_a_missing_dataset(path):
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(FrameError, match="no such dataset"):
        read_frame(reference(path, 0), timeout=0.05)


def test_frames_that_are_not_stacked(path):
    with h5py.File(path, "w") as file:
        file[DATA] = frame(1)
    with pytest.raises(FrameError, match=r"shape \(32, 48\)"):
        read_frame(reference(path, 0), timeout=5)


def test_a_file_that_is_no_hdf5(path):
    path.write_text("this is not a frame")
    with pytest.raises(FrameError, match="damaged"):
        read_frame(reference(path, 0), timeout=0.05)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_file_that_was_cut_off(path, libver):
    with h5py.File(path, "w", libver=libver) as file:
        stack = np.random.default_rng(0).integers(1, 1000, (8, *SHAPE), np.uint16)
        file.create_dataset(DATA, data=stack, chunks=(1, *SHAPE))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 2000)
    with pytest.raises(FrameError, match="damaged"):
        read_frame(reference(path, 7), timeout=0.05)


def test_a_place_that_was_made_but_not_filled(path):
    """HDF5 would read zeros there, as if the beam had been off."""
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(DATA, (2, *SHAPE), np.uint16, chunks=(1, *SHAPE))
        data[0] = frame(1)
    with pytest.raises(FrameError, match="empty"):
        read_frame(reference(path, 1), timeout=0.05)
    np.testing.assert_array_equal(read_frame(reference(path, 0)), frame(1))


def test_no_handle_is_left(path):
    write_frames(path, [frame(1)])
    read_frame(reference(path, 0))
    wait_until(lambda: not h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE), 5)
