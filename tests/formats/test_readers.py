"""Which reader reads what, by content and name; refusals in one line; TilEM with its images."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile

from formats.errors import FormatError
from formats.montage import MontageFileError
from formats.options import ReadOptions
from formats.readers import CAN_READ, read_montage
from tests.formats.temca import Temca

SIDE = 32


def refusal(*arguments):
    with pytest.raises(FormatError) as refused:
        read_montage(*arguments)
    message = str(refused.value)
    assert "\n" not in message
    return message


# TilEM


@pytest.fixture
def temca(tmp_path):
    """A montage of TEMCA with its images beside it; gives its path and its truth."""
    truth = Temca(3, 4, side=SIDE, spread=3, unmatched=0, wrong=0.0, overlap=0.3)
    path = tmp_path / "_metadata_1.json"
    path.write_text(json.dumps(truth.metadata()))
    rng = np.random.default_rng(2)
    for row, column in truth.cells:
        image = rng.integers(0, 60000, (SIDE, SIDE), np.uint16)
        tifffile.imwrite(tmp_path / f"20170_T4_{column}_{row}.tif", image)
    return path, truth


def test_metadata_of_tilem_is_read_with_its_images(temca):
    path, truth = temca
    for inputs in ([path], [path.parent]):
        montage = read_montage(inputs)
        assert len(montage.edges.pairs) == truth.n_edges
        assert montage.shape == (SIDE, SIDE)
        assert [source.path.name for source in montage.images] == list(montage.names)
        assert all(source.path.is_file() for source in montage.images)
        assert montage.maps is None


def test_images_may_lie_in_another_folder(temca):
    path, _ = temca
    images = path.parent / "images"
    images.mkdir()
    for file in path.parent.glob("*.tif"):
        shutil.move(file, images)
    assert "12 of 12 image files are missing; expected" in refusal([path])
    montage = read_montage([path, images])
    assert all(source.path.parent == images for source in montage.images)


def test_missing_images_are_told_with_how_many(temca):
    path, _ = temca
    for name in ("20170_T4_1_0.tif", "20170_T4_3_2.tif"):
        (path.parent / name).unlink()
    told = refusal([path])
    assert told.startswith(f"{path}: 2 of 12 image files are missing; expected ")
    assert told.endswith("20170_T4_1_0.tif and others")


def test_images_of_another_size_than_told_are_refused(temca):
    path, _ = temca
    for file in path.parent.glob("*.tif"):
        tifffile.imwrite(file, np.zeros((SIDE, SIDE + 2), np.uint16))
    assert f"tells of tiles of {SIDE} × {SIDE} px; images have {SIDE} × {SIDE + 2}" in refusal(
        [path]
    )


def test_a_pattern_reads_the_images_without_the_metadata(temca):
    path, truth = temca
    options = ReadOptions(pattern="20170_T4_{col}_{row}.tif")
    montage = read_montage([path.parent], options)
    assert sorted(map(tuple, montage.cells.tolist())) == sorted(truth.cells)
    assert len(montage.edges.pairs) == 0


# Refusals


def test_what_is_no_montage_is_told_what_can_be_read(tmp_path):
    assert refusal([]) == f"no input; expected {CAN_READ}"
    for name in ("none", "n" * 5000, "n\0", "none/none"):
        assert "there is no such file or folder; check" in refusal([tmp_path / name])
    for name, content in (
        ("a.json", b'{"a": 1}'),
        ("b.json", b"[5]"),
        ("c.json", b"[]"),
        ("d.bin", b"\0\1\2"),
        ("e.tif", b""),
        ("f", b""),
        ("g.py", b"import this"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        told = refusal([path])
        assert told.startswith(str(path))
        assert told.endswith(CAN_READ)
    image = tmp_path / "image.tif"
    tifffile.imwrite(image, np.zeros((4, 4), np.uint8))
    assert refusal([image]).endswith(CAN_READ)
    (tmp_path / "folder").mkdir()
    assert "are no montage; expected a folder" in refusal([image, tmp_path / "folder"])


def test_a_folder_with_two_kinds_of_metadata_asks_which(tmp_path):
    for name in ("_metadata_1.json", "_metadata_2.json"):
        (tmp_path / name).write_text("[]")
    told = refusal([tmp_path])
    assert told.endswith("holds _metadata_1.json, _metadata_2.json; give one of these")


def test_an_mdoc_that_tells_of_no_montage_does_not_hide_the_images(tmp_path):
    for column in range(3):
        tifffile.imwrite(tmp_path / f"r0_c{column}.tif", np.full((4, 4), column, np.uint8))
        text = "[ZValue = 0]\nStagePosition = 1 2\n"
        (tmp_path / f"r0_c{column}.tif.mdoc").write_text(text)
    assert read_montage([tmp_path]).cells.tolist() == [[0, 0], [0, 1], [0, 2]]


def test_a_montage_whose_file_cannot_be_read_is_refused(tmp_path):
    folder = tmp_path / "x.csv"
    folder.mkdir()
    assert "holds no image" in refusal([folder])
    (tmp_path / "broken.csv").symlink_to(tmp_path / "nowhere")
    assert "no such file" in refusal([tmp_path / "broken.csv"])


def test_names_with_line_breaks_leave_messages_one_line(tmp_path):
    path = tmp_path / "a\nb.json"
    path.write_text("no json")
    with pytest.raises(MontageFileError) as refused:
        read_montage([path])
    assert "a b.json is not JSON" in str(refused.value)
