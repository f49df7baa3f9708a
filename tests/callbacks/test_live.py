"""What a person sees: the table of tiles, the progress bar, the thumbnail."""

from __future__ import annotations

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from callbacks.documents import ProcessedRun, integer
from callbacks.live import PROCESSED, TAKEN, MontageProgress, Thumbnail, thumbnail, tile_table
from tests.callbacks.montage import SimulatedMontage, feed

mpl.use("agg")


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def test_the_table_has_a_line_for_each_tile(data_folder, make_processor, recorder):
    lines: list[str] = []
    table = tile_table(out=lines.append)

    def publish(name, doc):
        recorder(name, doc)
        table(name, doc)

    processor = make_processor(publish=publish)
    for seed in (1, 2):
        montage = SimulatedMontage(data_folder, seed=seed)
        feed(processor, montage.documents())
    assert processor.wait(60)
    rows = [line for line in lines if " pass" in line]
    assert len(rows) == 2 * montage.n_tiles
    header = next(line for line in lines if "verdict" in line)
    assert [name.strip() for name in header.strip("|").split("|")] == [
        "seq_num",
        "time",
        "tile_row",
        "tile_column",
        "mean",
        "focus",
        "verdict",
        "faults",
    ]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    first = recorder.table("tile")[0]
    assert cells[2:4] == [str(first["tile_row"]), str(first["tile_column"])]
    assert float(cells[4]) == pytest.approx(first["mean"], abs=0.05)
    assert any("process_montage" in line and "scan num: 7" in line for line in lines)


def test_progress_counts_taken_and_processed_tiles(data_folder, make_processor, console):
    montage = SimulatedMontage(data_folder)
    progress = MontageProgress(console)
    processor = make_processor(publish=progress)
    documents = list(montage.documents())
    raw_uid = documents[0][1]["uid"]
    events = 0
    for name, doc in documents:
        progress(name, doc)
        processor(name, doc)
        events += name == "event"
        assert progress.fraction(raw_uid, TAKEN) == pytest.approx(events / montage.n_tiles)
    assert processor.wait(60)
    assert progress.fraction(raw_uid, PROCESSED) == 1
    shown = console.file.getvalue()
    assert "taken" in shown
    assert "6/6" in shown
    assert not progress.running


def test_progress_tells_how_many_tiles_are_behind(data_folder, console):
    progress = MontageProgress(console)
    raw = {**SimulatedMontage(data_folder).start(), "uid": "raw"}
    streams = {"tile": {"tile_index": integer(), "behind": integer()}}
    run = ProcessedRun(progress, "process_montage", raw, streams)
    for index, behind in enumerate((4, 3)):
        run.event("tile", {"tile_index": index, "behind": behind})
    run.stop("abort")
    assert not progress.running
    assert "2/6" in console.file.getvalue()
    assert "3 behind" in console.file.getvalue()


def test_progress_ignores_other_runs_and_counts_a_retaken_tile_once(data_folder, console):
    montage = SimulatedMontage(data_folder)
    progress = MontageProgress(console)
    documents = list(montage.documents([*montage.all_tiles()[:3], montage.all_tiles()[0]]))
    feed(progress, documents)
    assert progress.fraction(documents[0][1]["uid"]) == pytest.approx(3 / 6)
    assert not progress.running
    other = list(SimulatedMontage(data_folder, seed=2).documents())
    del other[0][1]["montage"]
    feed(progress, other)
    with pytest.raises(KeyError):
        progress.fraction(other[0][1]["uid"])


def test_a_thumbnail_is_a_png_of_the_right_size():
    image = np.zeros((1, 3000, 2000), np.uint16)
    image[0, :1500] = 40000
    image[0, 1500:] = 10000
    small = thumbnail(image, largest=600)
    picture = Image.open(io.BytesIO(small._repr_png_()))
    assert picture.size == (400, 600)
    pixels = np.asarray(picture)
    assert pixels[10, 10] > 250
    assert pixels[-10, -10] < 5
    assert "400 × 600" in repr(small)


def test_a_thumbnail_is_shown_and_saved(tmp_path):
    small = Thumbnail(np.arange(60 * 80, dtype=np.uint16).reshape(60, 80))
    figure = small.show()
    assert figure.axes[0].images[0].get_array().shape == (60, 80)
    plt.close(figure)
    small.save(str(tmp_path / "small.png"))
    with Image.open(tmp_path / "small.png") as picture:
        assert picture.size == (80, 60)


@pytest.mark.parametrize("shape", [(4,), (2, 10, 10), (0, 5)])
def test_what_is_no_image_has_no_thumbnail(shape):
    with pytest.raises(ValueError, match="height, width"):
        Thumbnail(np.zeros(shape))
