"""Folders of tile images: names, formats, retakes, overlap and positions in names."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.errors import FormatError
from formats.montage import MontageFileError
from formats.options import ReadOptions
from formats.readers import read_montage
from tests.formats.tiles import (
    DOWN,
    HEIGHT,
    RIGHT,
    WIDTH,
    Tiles,
    matches,
    read_or_refuse,
    write_stack,
)

TILES = Tiles()
OVERLAP = 10.0  # percent


@pytest.fixture
def write(tmp_path):
    """Write tiles under names of a form; gives the folder."""

    def write_tiles(form, tiles=TILES, folder=tmp_path / "tiles"):
        for number, ((row, column), image) in enumerate(
            zip(tiles.cells, tiles.images, strict=True)
        ):
            path = folder / form.format(r=row, c=column, n=number, y=row * DOWN, x=column * RIGHT)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in (".mrc", ".st"):
                write_stack(path, [image])
            elif path.suffix.lower() in (".tif", ".tiff"):
                tifffile.imwrite(path, image)
            else:
                cv2.imwrite(str(path), image)
        return folder

    return write_tiles


def in_grid(montage, tiles=TILES):
    """Whether tiles lie right if rows and columns are as far apart as in the picture."""
    return matches(montage, tiles, montage.cells * np.array([DOWN, RIGHT], dtype=float))


@pytest.mark.parametrize(
    "form",
    [
        "tile_r{r:03d}_c{c:03d}.tif",
        "Tile_{r:03d}-{c:03d}-000000_0-000.TIF",
        "m_{r}_{c}.png",
        "{r:03d}_{c:03d}.mrc",
        "X{c:03d}_Y{r:03d}.png",
        "row{r}/tile_{c}.tif",
        "deeper/folders/r{r} c{c}.tiff",
    ],
)
def test_a_folder_is_read_by_its_names(write, form):
    montage = read_montage([write(form)])
    assert in_grid(montage)
    assert montage.shape == (HEIGHT, WIDTH)
    assert len(set(montage.names)) == len(montage.names) == 11
    assert np.isnan(montage.nominal).all()
    assert montage.notes["overlap"] == "not told; left to matching"
    assert len(montage.edges.pairs) == 0
    assert np.isnan(montage.stage).all()


def test_names_that_are_the_same_in_several_folders_keep_tiles_apart(write):
    montage = read_montage([write("row{r}/tile_{c}.tif")])
    assert montage.names[:2] == ("row0/tile_0.tif", "row0/tile_1.tif")
    assert "row2/tile_3.tif" in montage.names


def test_with_an_overlap_nominal_places_are_known(write):
    montage = read_montage([write("t_{r}_{c}.tif")], ReadOptions(overlap=OVERLAP))
    share = 1 - OVERLAP / 100
    np.testing.assert_allclose(montage.nominal[-1], [2 * HEIGHT * share, 3 * WIDTH * share])


def test_the_pixel_size_is_given_or_told_by_the_images(write):
    folder = write("t_{r}_{c}.mrc")
    assert read_montage([folder]).pixel_size == pytest.approx(4.0)
    assert read_montage([folder], ReadOptions(pixel_size=3.5)).pixel_size == 3.5
    assert math.isnan(read_montage([write("t_{r}_{c}.png", folder=folder / "png")]).pixel_size)


def test_columns_may_come_first_if_the_pattern_says_so(write):
    folder = write("20170_T4_{c}_{r}.tif")
    assert not in_grid(read_montage([folder]))
    assert in_grid(read_montage([folder], ReadOptions(pattern="20170_T4_{col}_{row}.tif")))


def test_rows_may_count_upwards(write):
    folder = write("t_{r}_{c}.tif")
    montage = read_montage([folder], ReadOptions(y_up=True))
    assert montage.cells.min() == 0
    np.testing.assert_array_equal(montage.cells[:, 0], [2 - row for row, _ in TILES.cells])


def test_a_running_number_needs_the_number_of_columns(write):
    tiles = Tiles(skipped=())
    folder = write("t_{n:04d}.tif", tiles)
    pattern = "t_{index}.tif"
    assert in_grid(read_montage([folder], ReadOptions(pattern=pattern, columns=4)), tiles)
    with pytest.raises(MontageFileError, match="the number of columns must be given"):
        read_montage([folder], ReadOptions(pattern=pattern))


def test_a_running_number_may_go_back_along_every_second_row(tmp_path):
    for number in range(6):
        tifffile.imwrite(tmp_path / f"t{number}.tif", np.zeros((4, 4), np.uint8))
    options = ReadOptions(pattern="t{index}.tif", columns=3, serpentine=True)
    cells = read_montage([tmp_path], options).cells
    assert cells.tolist() == [[0, 0], [0, 1], [0, 2], [1, 2], [1, 1], [1, 0]]


@pytest.mark.parametrize("unit", [None, "px"])
def test_positions_in_names_are_places(write, unit):
    montage = read_montage([write("t_x{x:05d}_y{y:05d}.tif")], ReadOptions(unit=unit))
    assert matches(montage, TILES)
    assert in_grid(montage)


def test_positions_in_names_may_be_lengths(write):
    folder = write("t_x{x}_y{y}.mrc")
    options = ReadOptions(unit="nm", pixel_size=1.0, y_up=True)
    montage = read_montage([folder], options)
    assert matches(montage, TILES, montage.nominal * [-1, 1])
    with pytest.raises(MontageFileError, match="tell the pixel size: give it, in nm"):
        read_montage([write("x{x}_y{y}.png", folder=folder / "png")], ReadOptions(unit="nm"))


def test_a_tile_taken_twice_takes_the_last(write):
    folder = write("r{r}_c{c}_take1.tif")
    for row, column, take, number in ((1, 1, 2, 7), (1, 1, 10, 8), (0, 3, 2, 9)):
        again = np.full((HEIGHT, WIDTH), number, np.uint8)
        tifffile.imwrite(folder / f"r{row}_c{column}_take{take}.tif", again)
    montage = read_montage([folder])
    assert len(montage.names) == 11
    assert {"r1_c1_take10.tif", "r0_c3_take2.tif"} <= set(montage.names)
    assert montage.notes["taken again"] == "3 tiles; the last of each counts"


def test_images_of_other_names_are_left_out_and_told(write):
    folder = write("r{r}_c{c}.tif")
    tifffile.imwrite(folder / "overview.tif", np.zeros((9, 9), np.uint8))
    (folder / ".hidden_r9_c9.tif").write_bytes(b"")
    (folder / "notes.txt").write_text("r1_c1")
    montage = read_montage([folder])
    assert in_grid(montage)
    assert montage.notes["left out"] == "1 images of other names, such as overview.tif"


def test_single_files_are_as_good_as_their_folder(write):
    folder = write("r{r}_c{c}.tif")
    assert in_grid(read_montage(sorted(folder.glob("*.tif"))))


def test_several_folders_are_one_montage_if_their_names_go_together(write, tmp_path):
    write("r{r}_c{c}.tif")
    folder = tmp_path / "tiles"
    for row in range(3):
        (folder / f"part{row}").mkdir()
        for path in folder.glob(f"r{row}_*.tif"):
            path.rename(folder / f"part{row}" / path.name)
    assert in_grid(read_montage([folder / f"part{row}" for row in range(3)]))


def refusal(*arguments):
    with pytest.raises(FormatError) as refused:
        read_montage(*arguments)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_what_is_no_montage_is_refused_in_one_line(write, tmp_path):
    folder = write("r{r}_c{c}.tif")
    (tmp_path / "empty").mkdir()
    assert "holds no image; expected files .tif, .tiff" in refusal([tmp_path / "empty"])
    told = refusal([folder], ReadOptions(pattern="x_{row}_{col}.tif"))
    assert "none of 11 images, such as r0_c0.tif, has a name of the pattern" in told
    tifffile.imwrite(folder / "r9_c9.tif", np.zeros((HEIGHT, WIDTH + 2), np.uint8))
    told = refusal([folder])
    assert f"r0_c0.tif has {HEIGHT} × {WIDTH} px and r9_c9.tif has {HEIGHT} × {WIDTH + 2}" in told
    (folder / "r9_c9.tif").write_bytes(b"II*\0nonsense")
    assert "r9_c9.tif" in refusal([folder])
    (folder / "r9_c9.tif").unlink()
    tifffile.imwrite(folder / f"r{10**9}_c1.tif", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert "names tell numbers up to 1e+09, which are no places" in refusal([folder])


def test_sections_or_channels_are_not_taken_for_retakes(write):
    folder = write("r{r}_c{c}_ch0.tif")
    write("r{r}_c{c}_ch1.tif", folder=folder)
    told = refusal([folder])
    assert "22 images, such as r0_c0_ch0.tif, tell 11 places" in told
    assert in_grid(read_montage([folder], ReadOptions(pattern="r{row}_c{col}_ch1.tif")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overlap": 100.0}, "overlap is 100 %; it must lie between"),
        ({"overlap": math.nan}, "overlap is nan %"),
        ({"pixel_size": 0.0}, "pixel size is 0 nm; it must be positive"),
        ({"unit": "furlong"}, "unit is 'furlong'; it must be px, nm, µm"),
        ({"columns": 0}, "0 columns; it must have 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(values, message):
    with pytest.raises(MontageFileError, match=message):
        ReadOptions(**values)


NAMES = st.text(st.sampled_from("rcxy_-=.0123456789 "), min_size=1, max_size=10)


@settings(deadline=None, max_examples=60)
@given(st.lists(NAMES, min_size=1, max_size=8, unique_by=str.lower), st.booleans())
def test_whatever_the_names_in_a_folder_it_is_read_or_refused(tmp_path_factory, names, in_folders):
    folder = tmp_path_factory.mktemp("any")
    for number, name in enumerate(names):
        path = folder / f"d{number % 2}" / f"{name}.tif" if in_folders else folder / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, TILES.images[number])
    montage = read_or_refuse([folder])
    assert montage is None or len(set(montage.names)) == len(montage.cells)
