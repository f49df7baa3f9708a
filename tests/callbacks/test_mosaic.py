"""Mosaics on disk: what stands in them, whoever wrote which block, and what cutting off leaves."""

from __future__ import annotations

import errno
import hashlib
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import zarr

from callbacks.documents import ProcessedRun
from callbacks.frames import FrameReference
from callbacks.mosaic import (
    MosaicTask,
    begin_mosaic,
    drop_mosaic,
    end_mosaic,
    make_mosaic,
    write_block,
)
from callbacks.processed_file import ProcessedFile
from callbacks.references import ReferenceFiles, write_average
from callbacks.tile_jobs import ProcessorSettings, StoredTile, TileTask
from callbacks.tiled_sink import TiledSink
from processing.chain import ArraySpec
from processing.geometry import FrameGeometry
from processing.mosaic import halve, lay_out, plan_mosaic, plan_warped_mosaic, render
from processing.solve import TileMaps
from tests.callbacks.montage import write_frames
from tests.callbacks.ngff import check_image
from tests.callbacks.tiled import KEY
from tests.processing.lenses import some_lens
from tests.support import REPOSITORY

SIDE, PITCH = 1024, 900
GEOMETRY = FrameGeometry(4.0, angle=30.0)
STAGE = (120.0, -45.0)


@dataclass
class Montage:
    """Tiles of one picture at places that are known, in a raw file and in a processed one."""

    tiles: list[np.ndarray]
    places: np.ndarray
    raw: list[TileTask]
    processed: list[TileTask]

    def task(self, path: Path, tiles=None, **how) -> MosaicTask:
        places = self.places - self.places[0] + 0.3
        how = {"maps": TileMaps.shifts(places, (SIDE, SIDE)), **how}
        return MosaicTask(
            path=path,
            tiles=stored_tiles(self.processed if tiles is None else tiles),
            geometry=GEOMETRY,
            stage=STAGE,
            **how,
        )

    def whole(self, seam="blend") -> np.ndarray:
        layout = plan_mosaic(self.places, (SIDE, SIDE))
        everything = slice(0, layout.shape[0]), slice(0, layout.shape[1])
        return render(lambda i, window: self.tiles[i][window], layout, everything, seam=seam)


def stored_tiles(tasks) -> list[StoredTile | None]:
    return [None if task is None else StoredTile(task, ProcessorSettings()) for task in tasks]


def make_montage(folder: Path, rows: int, columns: int) -> Montage:
    random_ = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(-1, 2)
    places = 20 + grid * PITCH + random_.integers(-20, 21, grid.shape)
    low = random_.integers(500, 4000, [side // 16 + 1 for side in places.max(axis=0) + SIDE])
    picture = np.kron(low, np.ones((16, 16), int)) + random_.integers(0, 256, (16, 16))[5, 7]
    tiles = [
        (picture[r : r + SIDE, c : c + SIDE] + random_.normal(0, 30, (SIDE, SIDE))).astype("u2")
        for r, c in places
    ]
    raw = folder / "raw.h5"
    write_frames(raw, tiles)
    file = ProcessedFile(folder / "processed.h5", {"frame": ArraySpec((SIDE, SIDE), "<u2")}, 2)
    for index, tile in enumerate(tiles):
        file.row(index).write({"frame": tile})
    references = [
        FrameReference(str(raw), "/entry/data/data", index, index + 1)
        for index in range(len(tiles))
    ]
    raw_tasks = [TileTask(reference, GEOMETRY) for reference in references]
    processed = [replace(task, row=file.row(i)) for i, task in enumerate(raw_tasks)]
    return Montage(tiles, places, raw_tasks, processed)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Montage:
    """2 × 2 tiles: one block."""
    return make_montage(tmp_path_factory.mktemp("small"), 2, 2)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Montage:
    """5 × 6 tiles: 2 × 2 blocks, three of them small ones at the edge."""
    return make_montage(tmp_path_factory.mktemp("large"), 5, 6)


@pytest.fixture(scope="module")
def stored(large, tmp_path_factory):
    """The mosaic of the large one."""
    path = tmp_path_factory.mktemp("stored") / "m.ome.zarr"
    return make_mosaic(large.task(path)), path


def contents(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


# What stands in it


def test_level_0_is_the_mosaic_and_each_level_half_the_one_before(large, stored):
    mosaic, path = stored
    group = zarr.open_group(path, mode="r")
    levels = [group[str(number)][0] for number in range(len(mosaic.arrays) - 1)]
    assert [array.key for array in mosaic.arrays] == [
        *(f"mosaic_{number}" for number in range(len(levels))),
        "thumbnail",
    ]
    assert (levels[0] == large.whole()).all()
    for fine, coarse in pairwise(levels):
        assert (coarse == halve(fine)).all()
    assert max(levels[-1].shape) <= 512 < max(levels[-2].shape)
    assert len(levels) == 5  # the last one is not of a block: that has four
    assert not mosaic.missing
    assert [array.shape for array in mosaic.arrays[:-1]] == [level.shape for level in levels]
    thumbnail = group["thumbnail"][0]
    assert (thumbnail.dtype, max(thumbnail.shape) <= 1024) == (np.uint8, True)
    assert np.ptp(thumbnail) > 200


@pytest.mark.parametrize("seam", ["blend", "cut"])
def test_frames_read_back_and_frames_made_again_give_the_same(small, tmp_path, seam):
    for name in ("raw", "processed"):
        path = tmp_path / f"{name}.ome.zarr"
        make_mosaic(small.task(path, getattr(small, name), seam=seam))
        assert (zarr.open_group(path, mode="r")["0"][0] == small.whole(seam)).all()


def test_tiles_are_turned_and_bent_by_their_maps(large, tmp_path):
    random_ = np.random.default_rng(1)
    places = large.places - large.places[0] + 0.3
    matrices = TileMaps.shifts(places, (SIDE, SIDE)).matrices
    matrices[:, :, :2] += random_.normal(0, 0.002, (len(places), 2, 2))
    maps = TileMaps((SIDE, SIDE), matrices, some_lens((SIDE, SIDE), 3.0))
    mosaic = make_mosaic(large.task(tmp_path / "m.ome.zarr", maps=maps))
    layout = plan_warped_mosaic(maps)
    whole = slice(0, layout.shape[0]), slice(0, layout.shape[1])
    group = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")
    expected = render(lambda i, window: large.tiles[i][window], layout, whole)
    assert (group["0"][0] == expected).all()
    assert mosaic.origin == layout.origin
    assert group.attrs["temline"]["interpolated"]
    check_image(group)


def test_frames_that_were_not_written_are_corrected_anew(small, tmp_path):
    files = ReferenceFiles(str(tmp_path / "bright.h5"), str(tmp_path / "dark.h5"))
    gain = np.linspace(500, 1500, SIDE, dtype=np.float32) * np.ones((SIDE, 1), np.float32)
    write_average(Path(files.bright), 100 + gain, {})
    write_average(Path(str(files.dark)), np.full((SIDE, SIDE), 100, np.float32), {})
    path = tmp_path / "m.ome.zarr"
    tiles = [replace(task, references=files) for task in small.raw]
    make_mosaic(small.task(path, tiles))
    found = zarr.open_group(path, mode="r")["0"][0]
    # Far from the neighbours, the first tile alone: (raw − dark) / gain · mean of the gain.
    raw = small.tiles[0][100:200, 100:200].astype(float)
    expected = (raw - 100) * gain.mean() / gain[100:200, 100:200]
    top, left = small.places[0] - small.places.min(axis=0)
    np.testing.assert_allclose(
        found[top + 100 : top + 200, left + 100 : left + 200], expected, atol=1
    )


def test_a_block_is_one_shard_of_each_level_and_empty_ones_are_no_files(large, stored, tmp_path):
    _, path = stored
    for level, files in enumerate((4, 4, 4, 4, 1)):
        chunks = [file for file in (path / str(level) / "c").rglob("*") if file.is_file()]
        assert len(chunks) == files, f"level {level}"
    group = zarr.open_group(path, mode="r")
    assert [group[str(level)].shards for level in range(5)] == [
        (1, 4096, 4096),
        (1, 2048, 2048),
        (1, 1024, 1024),
        None,
        (1, 2048, 2048),
    ]
    assert {group[str(level)].chunks for level in range(5)} == {(1, 512, 512)}
    corner = [None] * len(large.processed)
    corner[0] = large.processed[0]
    alone = make_mosaic(large.task(tmp_path / "alone.ome.zarr", corner))
    chunks = (tmp_path / "alone.ome.zarr" / "0" / "c").rglob("*")
    assert len([file for file in chunks if file.is_file()]) == 1
    assert not alone.missing  # tiles that are left out are not missed


@pytest.mark.parametrize("over", [1, 2, 5])
def test_a_sliver_of_a_block_at_the_edge_loses_nothing(small, tmp_path, over):
    """4097 px: of the last row of the second block nothing is left on level 1."""
    places = np.array([(0, 0), (0, 4096 + over - SIDE)])
    task = replace(
        small.task(tmp_path / "m.ome.zarr"),
        tiles=stored_tiles(small.processed[:2]),
        maps=TileMaps.shifts(places, (SIDE, SIDE)),
    )
    make_mosaic(task)
    group = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")
    levels = [group[str(number)][0] for number in range(4)]
    assert levels[0].shape == (SIDE, 4096 + over)
    assert (levels[0][:, -SIDE:] == small.tiles[1]).all()
    for fine, coarse in pairwise(levels):
        assert (coarse == halve(fine)).all()


# Who writes it


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_any_number_of_workers_in_any_order_writes_the_same_bytes(large, stored, tmp_path, pool):
    plan = begin_mosaic(large.task(tmp_path / "m.ome.zarr"))
    blocks = list(plan.blocks) * 2  # a block may be written again
    random.Random(3).shuffle(blocks)
    executor = (
        ThreadPoolExecutor(3)
        if pool == "threads"
        else ProcessPoolExecutor(2, mp_context=get_context("forkserver"))
    )
    with executor:
        results = list(executor.map(write_block, blocks))
    end_mosaic(plan, results)
    assert contents(tmp_path / "m.ome.zarr") == contents(stored[1])


def test_a_job_is_small(large, tmp_path):
    plan = begin_mosaic(large.task(tmp_path / "m.ome.zarr"))
    sizes = [len(pickle.dumps(block)) for block in plan.blocks]
    assert max(sizes) < 10_000
    assert sum(len(block.tiles) for block in plan.blocks) < 2 * len(large.tiles)
    drop_mosaic(plan)
    assert not list(tmp_path.iterdir())


def test_all_blocks_are_wanted(large, tmp_path):
    plan = begin_mosaic(large.task(tmp_path / "m.ome.zarr"))
    result = write_block(plan.blocks[1])
    with pytest.raises(ValueError, match="3 of 4 blocks have not been written"):
        end_mosaic(plan, [result, result])


def test_memory_does_not_grow_with_the_mosaic(tmp_path):
    """16 384² px are 537 MB; the same tile stands everywhere, so that it is quick."""
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from callbacks.frames import FrameReference
        from callbacks.mosaic import MosaicTask, make_mosaic
        from callbacks.processed_file import ProcessedFile
        from callbacks.tile_jobs import ProcessorSettings, StoredTile, TileTask
        from processing.chain import ArraySpec
        from processing.geometry import FrameGeometry
        from processing.solve import TileMaps

        folder = Path(sys.argv[1])
        file = ProcessedFile(folder / "p.h5", {"frame": ArraySpec((2048, 2048), "<u2")}, 1)
        file.row(0).write({"frame": np.full((2048, 2048), 700, np.uint16)})
        geometry = FrameGeometry(4.0)
        task = TileTask(FrameReference("", "", 0, 1), geometry, file.row(0))
        tile = StoredTile(task, ProcessorSettings())

        def make(name, side):
            places = np.array([(r, c) for r in range(side) for c in range(side)]) * 1820.0
            make_mosaic(MosaicTask(folder / name, [tile] * len(places),
                                   TileMaps.shifts(places, (2048, 2048)), geometry))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        print(make("small.ome.zarr", 3), make("large.ome.zarr", 9))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert large - small < 150, f"{small} MB for 5.7 k px, {large} MB for 16.6 k px"
    level = zarr.open_group(tmp_path / "large.ome.zarr", mode="r")["0"]
    assert level.nbytes > 500e6
    assert (level[0, 8000:8100, 12000:12100] == 700).all()


class Picture:
    """A tile that is there already."""

    def __init__(self, pixels):
        self.pixels = pixels

    def read(self, window):
        return self.pixels[window]


def test_tiles_of_any_source_and_of_unknown_pixel_size_are_put_together(small, tmp_path):
    task = replace(
        small.task(tmp_path / "m.ome.zarr"),
        tiles=[Picture(tile) for tile in small.tiles],
        geometry=None,
    )
    make_mosaic(task)
    group = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][0], small.whole())
    (scales,) = group.attrs["ome"]["multiscales"]
    assert [axis.get("unit") for axis in scales["axes"]] == [None, None, None]
    scale, shift = scales["datasets"][1]["coordinateTransformations"]
    assert scale["scale"] == [1.0, 2.0, 2.0]
    assert shift["translation"] == [0.0, 0.5, 0.5]
    assert "pixel_size" not in group.attrs["temline"]


# What goes wrong


def test_a_tile_that_cannot_be_read_costs_its_place_only(large, tmp_path):
    tiles = list(large.raw)
    gone = FrameReference(str(tmp_path / "gone.h5"), "/entry/data/data", 0, 1)
    tiles[7] = replace(tiles[7], reference=gone)
    began = time.monotonic()
    mosaic = make_mosaic(large.task(tmp_path / "m.ome.zarr", tiles))
    assert set(mosaic.missing) == {7}
    assert "no such file" in mosaic.missing[7]
    assert time.monotonic() - began < 60
    found = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")["0"][0]
    top, left = large.places[7] - large.places.min(axis=0)
    hole = found[top + 200 : top + 800, left + 200 : left + 800]
    assert (hole == 0).all()
    whole = large.whole()
    far = np.ones(found.shape, bool)
    far[top : top + SIDE, left : left + SIDE] = False
    assert (found[far] == whole[far]).all()


def test_what_is_cut_off_leaves_nothing(small, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("callbacks.mosaic.halve", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_mosaic(small.task(tmp_path / "m.ome.zarr"))
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_leaves_no_mosaic_and_another_can_begin_anew(small, tmp_path):
    path = tmp_path / "m.ome.zarr"
    (tmp_path / "task").write_bytes(pickle.dumps(small.task(path)))
    code = """
        import pickle, sys, time
        from callbacks.mosaic import begin_mosaic, write_block
        plan = begin_mosaic(pickle.load(open(sys.argv[1], "rb")))
        write_block(plan.blocks[0])
        print("written", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "task")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
    assert not path.exists()
    make_mosaic(small.task(path))
    assert (zarr.open_group(path, mode="r")["0"][0] == small.whole()).all()
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.ome.zarr", "task"}


def test_a_disk_that_is_full_is_said_plainly(small, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError, match="there is no room for the mosaic") as error:
            make_mosaic(small.task(tmp_path / "m.ome.zarr"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert "GB are free): make some, then process the run again" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_mosaic_is_never_overwritten(small, tmp_path):
    path = tmp_path / "m.ome.zarr"
    path.mkdir()
    with pytest.raises(FileExistsError, match="there is a mosaic already"):
        make_mosaic(small.task(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.ome.zarr"]


# What others read


def test_it_is_valid_ome_ngff(stored):
    group = zarr.open_group(stored[1], mode="r")
    ome = check_image(group)
    (image,) = ome["multiscales"]
    assert image["name"] == "m"
    assert len(image["datasets"]) == 5
    assert group.attrs["temline"]["angle"] == 30.0
    (window,) = [channel["window"] for channel in ome["omero"]["channels"]]
    assert 400 < window["start"] < window["end"] < 5000


def test_the_ngff_coordinates_of_a_pixel_are_its_place_on_the_stage(large, stored):
    """(y, x) in nm, from the stage's zero along the axes of the image: on every level."""
    group = zarr.open_group(stored[1], mode="r")
    task = large.task(stored[1])
    layout = lay_out(task.maps)
    for level, dataset in enumerate(group.attrs["ome"]["multiscales"][0]["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        at = np.array([17, 23])
        physical = np.multiply(at, scale["scale"][1:]) + translation["translation"][1:]
        # The middle of that pixel among the pixels of level 0, as a pixel of a tile at (0, 0).
        fine = (at + 0.5) * 2**level - 0.5 + layout.origin
        stage = GEOMETRY.pixel_to_stage(fine, (SIDE, SIDE), STAGE)
        np.testing.assert_allclose(
            GEOMETRY.stage_vector(physical / GEOMETRY.pixel_size), stage, atol=1e-9
        )


@pytest.mark.timeout(120)
def test_tiled_serves_crops_of_each_level(large, tiled, tiled_folder, tmp_path):
    mosaic = make_mosaic(large.task(tiled_folder / f"{time.time_ns()}.ome.zarr"))
    sink = TiledSink(tiled.uri, KEY, tmp_path / "kept")
    run = ProcessedRun(sink, "process_montage", {"uid": "raw", "scan_id": 1}, {"mosaic": {}})
    run.arrays("mosaic", mosaic.arrays)
    run.stop()
    assert sink.close(60)
    served, whole = tiled.client()[run.uid]["mosaic"], large.whole()
    assert served["mosaic_0"].shape == (1, *whole.shape)
    assert served["mosaic_0"].chunks[1][0] == 512
    for level in range(len(mosaic.arrays) - 1):
        if level:
            whole = halve(whole)
        rows, columns = (slice(side // 3, side // 3 + 512) for side in whole.shape)
        assert (served[f"mosaic_{level}"][0, rows, columns] == whole[rows, columns]).all()
    (asset,) = served["mosaic_0"].data_sources()[0].assets
    assert asset.is_directory
    times = []
    for place in range(8):
        began = time.perf_counter()
        served["mosaic_0"][0, 512 * place : 512 * place + 512, 512:1024]
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3  # 0.03 on an idle machine
