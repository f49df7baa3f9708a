"""What a user finds in Tiled after a montage: raw and processed run, tables, mosaic, pictures."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from callbacks.folders import DataFolders
from callbacks.live import thumbnail
from callbacks.tile_processor import TileProcessor
from callbacks.tiled_sink import TiledSink
from tests.callbacks.conftest import SETTINGS
from tests.callbacks.montage import SIDE, SimulatedMontage, feed
from tests.callbacks.tiled import KEY


@pytest.fixture
def written(tiled, tiled_folder, executor, recorder, tmp_path):
    """A montage that went through everything; gives the client, the montage and the two uids."""
    montage = SimulatedMontage(tiled_folder, rows=3, columns=4, seed=40)
    sink = TiledSink(tiled.uri, KEY, tmp_path / "kept")

    def publish(name, doc):
        recorder(name, doc)
        sink(name, doc)

    processor = TileProcessor(executor, publish, SETTINGS, DataFolders(tiled_folder))

    def both(name, doc):
        sink(name, doc)
        processor(name, doc)

    raw_uid = feed(both, montage.documents())
    assert processor.close(60)
    assert sink.close(60)
    recorder.check()
    return tiled.client(), montage, raw_uid, recorder.starts[0]["uid"]


def test_the_arrays_of_tiles_lie_beside_their_table(written):
    client, montage, _, uid = written
    tiles = client[uid]["tile"]
    table = tiles.base["internal"].read()
    assert {"frame", "mini", "preview", "histogram", "level_1", "level_3"} <= set(tiles.base)
    assert tiles["frame"].shape == (montage.n_tiles, SIDE, SIDE)
    for row in (0, 5, montage.n_tiles - 1):  # the k-th of each array is that of the k-th line
        frame = montage.frame(int(table["tile_index"][row]), 1)
        np.testing.assert_array_equal(tiles["frame"][row], frame)
        halved = frame.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(tiles["level_1"][row], halved, atol=1)
        histogram = tiles["histogram"][row]
        np.testing.assert_array_equal(histogram, np.bincount(frame.ravel() // 256, minlength=256))
        mini = tiles["mini"][row].astype(float)
        assert mini.shape == (8, 8)
        assert mini.std() > 0
    minimap = client[uid]["minimap"]["minimap"][0]
    assert (minimap > 0).sum() > 0.5 * montage.n_tiles * mini.size


def test_tiled_serves_the_raw_and_the_processed_run(written, recorder, tiled):
    client, montage, raw_uid, uid = written
    raw, processed = client[raw_uid], client[uid]
    frames = raw["primary"]["camera_image"]
    np.testing.assert_array_equal(frames[5].squeeze(), montage.frame(5, 1))
    np.testing.assert_allclose(raw["primary"]["tile_x"].read(), np.array(montage.stage)[:, 0])

    assert processed.start["plan_name"] == "process_montage"
    assert processed.start["raw_uid"] == raw_uid
    assert processed.stop["exit_status"] == "success"
    assert set(processed) == {
        "minimap",
        "tile",
        "match",
        "position",
        "verdict",
        "mosaic",
        "montage",
    }

    table = processed["tile"].base["internal"].read()
    assert len(table) == montage.n_tiles
    assert set(table["verdict"]) == {"pass"}
    first = table.set_index("tile_index").loc[3]
    assert first["mean"] == pytest.approx(montage.frame(3, 1).mean())
    assert len(processed["match"]["drow"].read()) == 17
    solved = processed["position"].base["internal"].read().sort_values("tile_index")
    error = solved[["row_px", "column_px"]].to_numpy() - montage.true
    assert np.abs(error - error.mean(axis=0)).max() < 0.2
    assert processed["montage"]["residual_px_median"].read()[0] < 0.1

    # The mosaic, level by level; a crop, the whole, and the picture of the web page.
    mosaic = processed["mosaic"]
    levels = sorted(key for key in mosaic if key.startswith("mosaic_") and key[7:].isdigit())
    (summary,) = recorder.table("montage")
    assert mosaic["mosaic_0"].shape == (1, summary["mosaic_rows"], summary["mosaic_columns"])
    assert len(levels) >= 2
    at = solved.iloc[3]
    row, column = round(at["row_px"]), round(at["column_px"])
    crop = mosaic["mosaic_0"][0, row + 100 : row + 150, column + 100 : column + 150]
    noise = crop - montage.frame(3, 1)[100:150, 100:150].astype(float)
    assert np.abs(noise).mean() < 1  # nothing overlaps in the middle of a tile
    half = mosaic["mosaic_1"].read()
    assert half.shape[1:] == tuple(side // 2 for side in mosaic["mosaic_0"].shape[1:])
    assert max(mosaic[levels[-1]].shape) <= 512

    times = []
    for _ in range(5):
        began = time.perf_counter()
        mosaic["mosaic_0"][0, 100:612, 50:562]
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3  # 0.05 on an idle machine

    link = mosaic["thumbnail"].uri.replace("/metadata/", "/array/full/")
    headers = {"Authorization": f"Apikey {KEY}"}
    answer = httpx.get(f"{link}?format=image/png&slice=0", headers=headers, timeout=30)
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == mosaic["thumbnail"].shape[:0:-1]
    assert np.asarray(picture).std() > 20
    assert thumbnail(processed).pixels.shape == mosaic["thumbnail"].shape[1:]
    with pytest.raises(LookupError, match="no mosaic yet"):
        thumbnail(raw)


DATABROKER = """
import json, sys
from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns
from databroker import Broker
from tiled.client import from_uri

uri, key, raw_uid, uid = sys.argv[1:]
client = from_uri(uri, api_key=key)
catalogue = CatalogOfBlueskyRuns(
    client.context, item=client.item, structure_clients=client.structure_clients
)
broker = Broker(catalogue)
raw, processed = broker[raw_uid], broker[uid]
print(json.dumps({
    "plan": raw.start["plan_name"],
    "tiles": list(raw.table("primary")["tile_index"]),
    "verdicts": list(processed.table("tile")["verdict"]),
    "documents": [name for name, _ in processed.documents()],
    "found": [run.start["uid"] for run in broker(raw_uid=raw_uid)],
}))
"""


def test_databroker_reads_the_same_runs(written, tiled):
    """In a process of its own: a Broker turns all clients of its process to its old layout."""
    _, montage, raw_uid, uid = written
    done = subprocess.run(
        [sys.executable, "-c", DATABROKER, tiled.uri, KEY, raw_uid, uid],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["plan"] == "montage"
    assert seen["tiles"] == list(range(montage.n_tiles))
    assert seen["verdicts"] == ["pass"] * montage.n_tiles
    assert (seen["documents"][0], seen["documents"][-1]) == ("start", "stop")
    assert seen["documents"].count("stream_resource") >= 3
    assert seen["found"] == [uid]


def test_a_search_finds_what_was_made_of_a_raw_run(written):
    from tiled.queries import Key

    client, _, raw_uid, uid = written
    assert list(client.search(Key("start.raw_uid") == raw_uid)) == [uid]
