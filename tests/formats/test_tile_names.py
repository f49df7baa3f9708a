"""Patterns of tile names: as microscopes write them, given, and of whatever a folder holds."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.montage import MontageFileError
from formats.tile_names import NamePattern, find_pattern, natural_key


def names(form, rows=3, columns=4):
    return [
        form.format(r=row, c=column, n=row * columns + column)
        for row in range(rows)
        for column in range(columns)
    ]


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("tile_r{r:03d}_c{c:03d}.tif", "tile_r{row}_c{col}.tif"),
        ("Tile_{r:03d}-{c:03d}.tif", "Tile_{row}-{col}.tif"),
        ("m_{r}_{c}.tif", "m_{row}_{col}.tif"),
        ("{r:03d}_{c:03d}.tif", "{row}_{col}.tif"),
        ("X{c:03d}_Y{r:03d}.png", "X{x}_Y{y}.png"),
        ("TileX{c}Y{r}.png", "TileX{x}Y{y}.png"),
        ("z=00000003/y={r:08d},x={c:08d}.tif", "y={y},x={x}.tif"),
        # Zeiss Atlas, FEI MAPS (two versions), TEMCA, a mosaic of Atlas cut into tiles
        (
            "Tile_r{r}-c{c}_S_170_1752450{n:03d}.tif",
            "Tile_r{row}-c{col}_S_170_#.tif",
        ),
        ("Tile_{r:03d}-{c:03d}-000000_0-000.tif", "Tile_{row}-{col}-000000_0-000.tif"),
        (
            "Tile_{r:03d}-{c:03d}-000000_0-000.s0001_e00.tif",
            "Tile_{row}-{col}-000000_0-000.s0001_e00.tif",
        ),
        ("col{c:04d}_row{r:04d}_cam1.tif", "col{col}_row{row}_cam1.tif"),
        (
            "0013_Tile_r1-c1_W02_sec013_tr{r}-tc{c}_.png",
            "0013_Tile_r1-c1_W02_sec013_tr{row}-tc{col}_.png",
        ),
        # Folders that hold the row; a running number; characters that a pattern gives a meaning
        ("row{r}/tile_{c}.tif", "row{row}/tile_{col}.tif"),
        ("scan_{n:04d}_{r}_{c}.tif", "scan_#_{row}_{col}.tif"),
        ("a{{#}}_{r}_{c}*.tif", "a???_{row}_{col}?.tif"),
    ],
)
def test_rows_and_columns_are_found_in_names(form, pattern):
    found = find_pattern(names(form))
    assert found.text == pattern
    number = found.numbers(form.format(r=2, c=3, n=11))
    row, column = ("y", "x") if "{y}" in pattern else ("row", "col")
    assert number is not None
    assert (number[row], number[column]) == (2, 3)


def test_a_few_files_of_other_names_do_not_matter():
    all_names = [*names("t_{r}_{c}.tif"), "overview.tif", "overview_2.tif"]
    found = find_pattern(all_names)
    assert found.text == "t_{row}_{col}.tif"
    assert found.numbers("overview_2.tif") is None


def test_a_single_row_is_read_where_it_is_called_so():
    assert find_pattern(names("r{r}_c{c}.tif", rows=1)).text == "r{row}_c{col}.tif"


@pytest.mark.parametrize(
    "some",
    [
        ["a.tif", "b.tif"],
        [f"tile_{number:04d}.tif" for number in range(12)],
        # Sections in folders: each place has an image in each of them.
        [f"s{section}/{name}" for section in range(3) for name in names("t_{r}_{c}.tif")],
        # Dates and times fill no grid.
        [f"2024010{k}_{k * 91 % 60:02d}{k * 37 % 60:02d}11.tif" for k in range(9)],
    ],
)
def test_names_that_tell_no_place_ask_for_a_pattern(some):
    with pytest.raises(MontageFileError, match="tell no place of one image each: give a pattern"):
        find_pattern(some)


def test_a_pattern_takes_wildcards_and_ignores_case_and_folders():
    pattern = NamePattern.parse("tile_{row}_*_{col}_#.t?f")
    assert pattern.numbers("deep/er/TILE_3_any.thing_5_77.tif") == {"row": 3, "col": 5}
    assert pattern.numbers("tile_3_any/thing_5_77.tif") is None
    assert NamePattern.parse("{x},{y}").numbers("-12.5,3") == {"x": -12.5, "y": 3}
    assert NamePattern.parse("{row}_{column}").fields == ("row", "col")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile.tif", "tells no place"),
        ("{row}.tif", "tells no place"),
        ("{x}_{row}", "tells no place"),
        ("{row}_{row}_{col}", "{row} is there twice"),
        ("{row}_{kol}", "{kol} is not known; it may have {row}, {col}, {x}, {y}, {index}, each"),
    ],
)
def test_a_pattern_without_a_place_is_refused(text, message):
    with pytest.raises(MontageFileError) as refused:
        NamePattern.parse(text)
    assert message in str(refused.value)


def test_names_sort_as_people_do():
    assert sorted(["t_10", "t_9", "T_1", "t"], key=natural_key) == ["t", "T_1", "t_9", "t_10"]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8))
def test_whatever_the_names_a_pattern_fits_some_or_is_refused(some):
    with suppress(MontageFileError):
        found = find_pattern(some)
        assert any(found.numbers(name) for name in some)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=20), st.text(max_size=12))
def test_whatever_the_pattern_it_is_one_or_is_refused(text, name):
    with suppress(MontageFileError):
        found = NamePattern.parse(text).numbers(name)
        assert found is None or len(found) >= 1
