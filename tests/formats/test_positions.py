"""Tables of positions: columns and units as people write them, Fiji's, and what is written back."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.errors import FormatError
from formats.montage import ImageSource, MontageFileError, PlacedMontage, PlacedTile
from formats.options import ReadOptions
from formats.positions import write_csv, write_json
from formats.readers import read_montage
from tests.formats.tiles import DOWN, HEIGHT, RIGHT, WIDTH, Tiles, matches, read_or_refuse

TILES = Tiles()
NM = 4.0  # a px


@pytest.fixture
def folder(tmp_path):
    """The tiles' images, named without sense, in a folder of their own."""
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(TILES.images):
        tifffile.imwrite(images / f"img{number:04d}.tif", image)
    return tmp_path


def table(header, make, delimiter=",", end="\n"):
    rows = [header]
    for number, (row, column) in enumerate(TILES.cells):
        rows.append(delimiter.join(make(number, row, column)))
    return end.join([*rows, ""])


def px(number, row, column):
    return f"images/img{number:04d}.tif", f"{column * RIGHT}", f"{row * DOWN}"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (table("file,x,y", px), {}),
        (table("Filename;X (px);Y (px)", px, ";", "\r\n"), {}),
        (table("\ufeffFile\tx_px\ty_px", px, "\t"), {}),
        (table("file,x,y,note", lambda *a: (*px(*a), '"a, b"')), {}),
        # Names without folder and suffix; decimal commas; columns in another order.
        (
            table(
                "Y;X;Image",
                lambda n, r, c: (f"{r * DOWN},0", f"{c * RIGHT},00", f"img{n:04d}"),
                ";",
            ),
            {},
        ),
        # Lengths count upwards as on a stage, px downwards, unless told.
        (
            table(
                "image,x_um,y_um",
                lambda n, r, c: (
                    f"img{n:04d}.tif",
                    f"{c * RIGHT * NM / 1000 - 700}",
                    f"{-r * DOWN * NM / 1000}",
                ),
            ),
            {"pixel_size": NM},
        ),
        (
            table(
                "image,Stage X [mm],Stage Y [mm]",
                lambda n, r, c: (
                    f"img{n:04d}.tif",
                    f"{c * RIGHT * NM / 1e6}",
                    f"{-r * DOWN * NM / 1e6}",
                ),
            ),
            {"pixel_size": NM},
        ),
        (
            table(
                "image,x,y",
                lambda n, r, c: (f"img{n:04d}.tif", f"{c * RIGHT * NM}", f"{r * DOWN * NM}"),
            ),
            {"pixel_size": NM, "unit": "nm", "y_up": False},
        ),
        (
            table("image,x,y", lambda n, r, c: (px(n, r, c)[0], f"{c * RIGHT}", f"{-r * DOWN}")),
            {"y_up": True},
        ),
    ],
)
def test_tables_are_read_as_people_write_them(folder, text, options):
    path = folder / "positions.csv"
    path.write_text(text, newline="")
    montage = read_montage([path, folder / "images"], ReadOptions(**options))
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    assert len(set(montage.names)) == 11


def test_latin_1_is_read(folder):
    text = table("Bild-Größe,file,x (µm),y (µm)", lambda *a: ("4 µm", *px(*a)))
    path = folder / "positions.csv"
    path.write_bytes(text.encode("latin-1"))
    montage = read_montage([path], ReadOptions(pixel_size=1000.0, y_up=False))
    assert matches(montage, TILES)
    assert montage.notes["positions"] == "x, y in µm, downwards"


def test_a_stage_beside_places_is_kept(folder):
    text = table(
        "file,x,y,stage_x_um,stage_y_um",
        lambda n, r, c: (*px(n, r, c), f"{c * RIGHT * NM / 1000}", f"{-r * DOWN * NM / 1000}"),
    )
    (folder / "p.csv").write_text(text)
    montage = read_montage([folder / "p.csv"])
    assert matches(montage, TILES)
    np.testing.assert_allclose(montage.to_stage, [[0, NM / 1000], [-NM / 1000, 0]], atol=1e-9)
    assert montage.angle == pytest.approx(0.0)


def test_rows_and_columns_are_enough(folder):
    text = table("tile,tile_row,tile_column", lambda n, r, c: (px(n, r, c)[0], str(r), str(c)))
    (folder / "p.csv").write_text(text)
    montage = read_montage([folder / "p.csv"])
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    assert np.isnan(montage.nominal).all()
    assert montage.notes["overlap"] == "not told; left to matching"
    up = read_montage([folder / "p.csv"], ReadOptions(overlap=10, y_up=True))
    assert up.cells[:, 0].tolist() == [2 - row for row, _ in TILES.cells]
    assert up.nominal[:, 0].max() == pytest.approx(2 * HEIGHT * 0.9)


def test_pages_of_a_stack_are_tiles(tmp_path):
    tifffile.imwrite(tmp_path / "all.tif", np.array(TILES.images), imagej=True)
    text = table("file,page,x,y", lambda n, r, c: ("all.tif", str(n), *px(n, r, c)[1:]))
    (tmp_path / "p.csv").write_text(text)
    montage = read_montage([tmp_path / "p.csv"])
    assert matches(montage, TILES)
    assert montage.names[3] == "all.tif_0003"


def test_a_tile_taken_twice_takes_the_last(folder):
    text = table("file,x,y", px)
    first, wrong = text.splitlines()[0], "images/img0004.tif,999,999"
    (folder / "p.csv").write_text(text.replace(first, f"{first}\n{wrong}"))
    montage = read_montage([folder / "p.csv"])
    assert matches(montage, TILES)
    assert montage.notes["taken again"] == "1 tiles; the last of each counts"


def test_two_tiles_of_one_place_in_the_grid_take_the_last(folder):
    text = table("file,row,col", lambda n, r, c: (px(n, r, c)[0], str(r), str(min(c, 2))))
    (folder / "p.csv").write_text(text)
    montage = read_montage([folder / "p.csv"])
    assert [source.path.name for source in montage.images][-1] == "img0010.tif"
    assert len(montage.names) == 9
    assert montage.notes["taken again"] == "2 tiles; the last of each counts"


def test_cells_that_cannot_be_are_found_by_the_places(folder):
    text = table("file,x,y,row,col", lambda n, r, c: (*px(n, r, c), "1", "1"))
    (folder / "p.csv").write_text(text)
    np.testing.assert_array_equal(read_montage([folder / "p.csv"]).cells, TILES.cells)


def test_tiles_in_no_grid_are_read(folder):
    text = table("file,x,y", lambda n, r, c: (px(n, r, c)[0], str(n % 3), str(n // 3)))
    (folder / "p.csv").write_text(text)
    montage = read_montage([folder / "p.csv"])
    assert montage.notes["grid"] == "none; tiles are numbered as one row"
    assert montage.cells.tolist() == [[0, number] for number in range(11)]


def test_fijis_tile_configurations_are_read(folder):
    lines = ["# Define the number of dimensions we are working on", "dim = 2", ""]
    lines += ["# Define the image coordinates"]
    for number, (row, column) in enumerate(TILES.cells):
        lines.append(f"img{number:04d}.tif; ; ({column * RIGHT:.1f}, {row * DOWN:.1f})")
    path = folder / "images" / "TileConfiguration.registered.txt"
    path.write_text("\n".join(lines))
    for inputs in ([path], [folder / "images"]):
        assert matches(read_montage(inputs), TILES)


@pytest.mark.parametrize("wrapped", [True, False])
def test_json_is_read(folder, wrapped):
    tiles = [
        {"file": px(n, r, c)[0], "x": c * RIGHT * NM, "y": -r * DOWN * NM, "more": [1]}
        for n, (r, c) in enumerate(TILES.cells)
    ]
    content = {"unit": "nm", "pixel_size_nm": NM, "tiles": tiles} if wrapped else tiles
    (folder / "p.json").write_text(json.dumps(content))
    options = ReadOptions() if wrapped else ReadOptions(unit="nm", pixel_size=NM)
    montage = read_montage([folder / "p.json"], options)
    assert matches(montage, TILES)
    assert montage.pixel_size == NM


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected columns for the file"),
        ("a\0b", "is no text"),
        ("a,b\n1,2\n", "begins with the columns ['a', 'b']; expected columns for the file"),
        ("file,x\nimages/img0000.tif,1\n", "does not tell of each tile where it lies"),
        ("file,x,y\n", "holds no tile"),
        ("file,x,y\nimages/img0000.tif,1,\n", "does not tell of each tile where it lies"),
        ("file,x,y\nimages/img0000.tif,one,2\n", "line 2: x: Input should be a valid number"),
        ("file,x,y\nimages/img0000.tif,inf,2\n", "line 2: x: Input should be a finite number"),
        ("file,x,y\nimages/img0000.tif,1e99,2\n", "line 2: x: Input should be less than or equal"),
        ("file,row,col\nimages/img0000.tif,1.5,2\n", "line 2: row: Input should be a valid int"),
        ("file,x,y\n,1,2\n", "line 2: file: Input should be a valid string"),
        ("file,x,y\nnone.tif,1,2\n", "1 of 1 image files are missing; expected"),
        ("file,x_um,y_um\nimages/img0000.tif,1,2\n", "tell the pixel size: give it, in nm"),
        ("file,x_um,y_nm\nimages/img0000.tif,1,2\n", "tells x in um and y in nm; use one unit"),
        ("dim = 2\nimg0.tif; ; (1, b)\n", "line 2: y: Input should be a valid number"),
        ("dim = 2\nimg0.tif; ; (1)\n", "does not tell of each tile where it lies"),
        ("dim = 2\n", "holds no tile"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_in_one_line(folder, text, message):
    path = folder / "p.csv"
    path.write_text(text)
    with pytest.raises(FormatError) as refused:
        read_montage([path])
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"file": "a.tif", "x": "b", "y": 1}], "tile 0: x: Input should be a valid number"),
        ([{"file": "a.tif", "x": 1, "y": 1}, 5], "tile 1: found 5, expected a mapping"),
        ({"tiles": [{"file": "a.tif", "x": 1, "y": 1}], "unit": 5}, "unit: Input should be"),
        (
            {"tiles": [{"file": "a.tif", "x": 1, "y": 1}], "pixel_size": -5},
            "pixel_size: Input should be greater than 0",
        ),
        ({"tiles": [{"file": "a.tif", "x": 1, "y": 1}], "unit": "ell"}, "unit is 'ell'"),
    ],
)
def test_what_is_wrong_in_json_is_told_in_one_line(folder, content, message):
    (folder / "p.json").write_text(json.dumps(content))
    with pytest.raises(MontageFileError) as refused:
        read_montage([folder / "p.json"])
    assert message in str(refused.value)


def test_two_tables_are_not_one_montage(folder):
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(table("file,x,y", px))
    with pytest.raises(MontageFileError, match="both tell of tiles; give one of them"):
        read_montage([folder / "a.csv", folder / "b.csv"])


CELLS = st.sampled_from(["file", "x", "y", "row", "col", "1", "-2.5", "a.tif", "", '"', "nan", "µ"])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(CELLS, max_size=4), max_size=5), st.sampled_from(",;\t"), st.booleans())
def test_whatever_a_table_holds_it_is_read_or_refused(tmp_path_factory, rows, delimiter, headed):
    path = tmp_path_factory.mktemp("any") / "p.csv"
    tifffile.imwrite(path.with_name("a.tif"), TILES.images[0])
    header = [delimiter.join(["file", "x", "y", "row"])] if headed else []
    path.write_text("\n".join([*header, *(delimiter.join(row) for row in rows)]))
    montage = read_or_refuse([path])
    assert montage is None or len(montage.names) == len(montage.images)


# Written


def test_positions_that_were_not_recorded_are_refused(tmp_path):
    lines = [f"t{number}.tif,0,0" for number in range(3)]
    for number in range(3):
        tifffile.imwrite(tmp_path / f"t{number}.tif", np.ones((70, 70), np.uint16))
    (tmp_path / "t.csv").write_text("\n".join(["file,x,y", *lines]))
    with pytest.raises(MontageFileError, match="puts all 3 tiles at one place"):
        read_montage([tmp_path / "t.csv"])


def placed(folder, names):
    tiles = tuple(
        PlacedTile(
            name,
            row,
            column,
            x + 0.25,
            y,
            0.1,
            0.1,
            math.nan,
            "match",
            0,
            5.0 + x * NM / 1000,
            -y * NM / 1000,
            ImageSource(folder / "images" / f"img{number:04d}.tif"),
        )
        for number, (name, (row, column), (y, x)) in enumerate(
            zip(names, TILES.cells, TILES.places.tolist(), strict=True)
        )
    )
    return PlacedMontage("m", tiles, (HEIGHT, WIDTH), NM, math.nan)


@pytest.mark.parametrize("write", [write_csv, write_json])
def test_what_is_written_comes_back(folder, write):
    path = folder / f"out.{'csv' if write is write_csv else 'json'}"
    write(path, placed(folder, [f"t{number}" for number in range(11)]))
    montage = read_montage([path])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    np.testing.assert_allclose(montage.nominal[0], [0, 0.25])
    np.testing.assert_allclose(montage.stage[0], [5.0, 0.0])
    if write is write_json:
        assert montage.pixel_size == NM


def test_pages_come_back(folder, tmp_path):
    montage = placed(folder, [f"t{number}" for number in range(11)])
    tifffile.imwrite(tmp_path / "all.tif", np.array(TILES.images), imagej=True)
    pages = tuple(
        PlacedTile(**{**vars(tile), "image": ImageSource(tmp_path / "all.tif", number)})
        for number, tile in enumerate(montage.tiles)
    )
    for write, name in ((write_csv, "o.csv"), (write_json, "o.json")):
        write(tmp_path / name, PlacedMontage("m", pages, (HEIGHT, WIDTH), NM, 0.0))
        assert matches(read_montage([tmp_path / name]), TILES)


def test_names_that_are_the_same_stay_apart(folder):
    names = ["tile_0", "tile_0", *(f"t{number}" for number in range(9))]
    write_csv(folder / "o.csv", placed(folder, names))
    with (folder / "o.csv").open(newline="", encoding="utf-8") as file:
        written = [row["tile"] for row in csv.DictReader(file)]
    assert written[:3] == ["tile_0", "tile_0 (2)", "t0"]
    write_json(folder / "o.json", placed(folder, names))
    tiles = json.loads((folder / "o.json").read_text("utf-8"))["tiles"]
    assert [one["tile"] for one in tiles] == written
    assert tiles[0]["residual_px"] is None


def test_what_cannot_be_written_is_told_in_one_line(folder):
    montage = placed(folder, [f"t{number}" for number in range(11)])
    for write in (write_csv, write_json):
        with pytest.raises(MontageFileError, match="none/o cannot be written: No such file"):
            write(folder / "none" / "o", montage)
