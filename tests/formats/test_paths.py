"""Paths in files: of other systems, of files that moved, and names that keep tiles apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.paths import distinct_names, find_file, is_file, numbered


@pytest.fixture
def folder(tmp_path):
    for name in ("a.tif", "images/b.tif", "images/deep/c.tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.tif", "a.tif"),
        ("./images/b.tif", "images/b.tif"),
        (r"images\b.tif", "images/b.tif"),
        ("images/../a.tif", "images/../a.tif"),
        # Moved: what lies beside under the same name, with as many folders as there are.
        ("/data/2020/images/deep/c.tif", "images/deep/c.tif"),
        (r"C:\data\images\b.tif", "images/b.tif"),
        (r"\\server\share\a.tif", "a.tif"),
        ("elsewhere/a.tif", "a.tif"),
        # Nowhere: where it should be.
        ("none.tif", "none.tif"),
        (r"C:\data\none.tif", "none.tif"),
        ("deep/none.tif", "deep/none.tif"),
    ],
)
def test_a_file_is_found_by_what_a_file_says(folder, text, found):
    assert find_file(folder, text) == folder / found


def test_an_absolute_path_is_taken_as_it_is(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("other") / "a.tif"
    assert find_file(folder, str(elsewhere)) == folder / "a.tif"
    elsewhere.write_bytes(b"")
    assert find_file(folder, str(elsewhere)) == elsewhere
    assert find_file(folder, "/none/x.tif") == Path("/none/x.tif")


@given(st.text(max_size=20))
def test_no_text_is_an_error(text):
    assert is_file(find_file(Path("/nowhere"), text)) in (True, False)


def test_what_no_file_can_be_called_is_none():
    assert not is_file(Path("a" * 5000))
    assert not is_file(Path("a\0b"))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["row0/tile_0.tif", "row1/tile_0.tif"], ("row0/tile_0.tif", "row1/tile_0.tif")),
        (["row0/tile_0.tif", "row1/tile_1.tif"], ("tile_0.tif", "tile_1.tif")),
        ([r"C:\data\tile_0.tif", r"D:\other\tile_0.tif"], ("data/tile_0.tif", "other/tile_0.tif")),
        ([r"C:\data\tile_0.tif", r"C:\data\tile_1.tif"], ("tile_0.tif", "tile_1.tif")),
        (["x/y/a", "z/y/a", "z/b"], ("x/y/a", "z/y/a", "b")),
        (["a", "a", "a (2)"], ("a", "a (2)", "a (2) (2)")),
        (["b/a", "a", "a"], ("b/a", "a", "a (2)")),
    ],
)
def test_names_are_as_long_as_keeps_them_apart(paths, names):
    assert distinct_names(paths) == names


@given(st.lists(st.text(alphabet="ab/\\(2) ", max_size=6), max_size=8))
def test_names_are_always_distinct(paths):
    for names in (distinct_names(paths), numbered(paths)):
        assert len(set(names)) == len(paths)
