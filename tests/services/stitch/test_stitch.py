"""`temline stitch`: montages in the form of real files, against what the simulator knows."""

from __future__ import annotations

import csv
import json
import re
import shutil

import matplotlib.image
import numpy as np
import pytest
import zarr

from formats.readers import read_montage
from tests.callbacks.ngff import check_image
from tests.services.stitch.files import rms_error, write_folder, write_render, write_serialem

WRITERS = {"folder": write_folder, "serialem": write_serialem, "render": write_render}


def positions(path):
    """Return (row, column) of each tile of a table that was written."""
    with path.open(newline="") as file:
        return np.array([(float(row["y_px"]), float(row["x_px"])) for row in csv.DictReader(file)])


def names(path):
    with path.open(newline="") as file:
        return [row["tile"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("form", WRITERS)
def test_a_montage_of_files_is_stitched(temline, montage, tmp_path, form):
    written = WRITERS[form](tmp_path / "in", montage)
    output, table = tmp_path / "out" / "brain.ome.zarr", tmp_path / "tiles.csv"
    said = temline("stitch", *written.inputs, "-o", output, "--csv", table, "--pixel-size", 4)
    assert (said.code, said.err) == (0, "")
    assert rms_error(montage, positions(table), written.order) < 0.3
    assert "accepted: neighbours disagree by" in said.out
    for path in (output, output.with_name("brain.review.png"), table):
        assert f"written: {path}" in said.out
        assert path.exists()
    group = zarr.open_group(output, mode="r")
    check_image(group)
    rows, columns = group["0"].shape[1:]
    assert np.abs(np.array([rows, columns]) - montage.nominal.max(axis=0) - 512).max() < 120
    # Every tile stands in it where the table says, but for the half of a pixel that is rounded.
    corners = np.rint(positions(table)).astype(int)
    first = corners[written.order.index(0)]
    scale = 2 if form == "serialem" else 1
    middle = montage.tiles[0][200:300, 200:300] // scale
    found = group["0"][0, first[0] + 190 : first[0] + 310, first[1] + 190 : first[1] + 310]
    agreement = [
        np.corrcoef(middle.ravel(), found[r : r + 100, c : c + 100].ravel())[0, 1]
        for r in range(21)
        for c in range(21)
    ]
    assert max(agreement) > 0.9999
    assert abs(np.argmax(agreement) // 21 - 10) <= 1
    assert abs(np.argmax(agreement) % 21 - 10) <= 1


def test_all_exports_are_written_and_read_back(temline, montage, tmp_path):
    written = write_serialem(tmp_path / "in", montage)
    files = {
        name: tmp_path / file
        for name, file in {
            "csv": "tiles.csv",
            "render": "tiles.json",
            "mdoc": "aligned.mdoc",
            "json": "figures.json",
        }.items()
    }
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    said = temline(
        "stitch",
        *written.inputs,
        "-o",
        tmp_path / "m.ome.zarr",
        *options,
        "--ome",
        tmp_path / "ome",
    )
    assert (said.code, said.err) == (0, "")
    expected = positions(files["csv"])
    shutil.copy(tmp_path / "in" / "map.st", tmp_path / "map.st")
    for path, limit in ((files["render"], 1e-3), (files["mdoc"], 1.01)):
        places = read_montage([path]).maps[:, :, 2]
        np.testing.assert_allclose(places - places[0], expected - expected[0], atol=limit)
    (ome,) = (tmp_path / "ome").glob("*.ome.tif")
    assert len(read_montage([ome]).names) == 12
    figures = json.loads(files["json"].read_text())
    assert figures["tiles"] == len(figures["tile_figures"]) == 12
    assert figures["edges"] == 17
    assert figures["accepted"]
    focus = [tile["focus"] for tile in figures["tile_figures"]]
    assert all(0.3 < value < 0.7 for value in focus)
    assert {tile["verdict"] for tile in figures["tile_figures"]} == {"pass"}
    assert {"light", "placing", "matching", "solving", "mosaic"} <= figures["phases_seconds"].keys()


def test_the_review_page_shows_the_mosaic_and_maps(temline, montage, tmp_path):
    written = write_folder(tmp_path / "in", montage)
    said = temline("stitch", *written.inputs, "-o", tmp_path / "m.ome.zarr", "--no-flat")
    assert said.code == 0
    page = matplotlib.image.imread(tmp_path / "m.review.png")
    assert page.shape[0] > 400
    assert page.shape[1] > 1000
    left, right = np.array_split(page[..., :3], 2, axis=1)
    assert (np.ptp(left, axis=2) > 0.05).mean() < 0.01  # the mosaic is grey
    assert (np.ptp(right, axis=2) > 0.2).mean() > 0.1  # maps are not


def test_tiles_that_lie_otherwise_than_told_are_found(temline, montage, tmp_path):
    folder = tmp_path / "in"
    written = write_folder(folder, montage, "x{:d}_y{:d}.tif")  # rows are called x
    table = tmp_path / "tiles.csv"
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr", "--csv", table)
    assert said.code == 0
    assert "rows and columns are swapped" in said.out
    order = [
        int(np.flatnonzero((montage.grid == [int(n) for n in re.findall(r"\d+", name)]).all(1))[0])
        for name in names(table)
    ]
    assert sorted(order) == written.order
    assert rms_error(montage, positions(table), order) < 0.3


def write_table(folder, montage, columns, scale):
    """Write the images and a table of their positions, y upwards."""
    write_folder(folder, montage)
    lines = [f"file,{columns}"]
    for (row, column), (down, right) in zip(montage.grid, montage.nominal, strict=True):
        lines.append(f"sec7_r{row:03d}-c{column:03d}.tif,{right * scale},{-down * scale}")
    path = folder / "places.csv"
    path.write_text("\n".join(lines))
    return path


def test_rows_that_run_upwards_are_found(temline, montage, tmp_path):
    table = write_table(tmp_path / "in", montage, "x,y", 1.0)  # px count downwards, as a rule
    out = tmp_path / "tiles.csv"
    said = temline("stitch", table, "-o", tmp_path / "m.ome.zarr", "--csv", out)
    assert said.code == 0
    assert "rows run upwards" in said.out
    assert rms_error(montage, positions(out)) < 0.3


def test_positions_of_a_wrong_scale_are_mended(temline, montage, tmp_path):
    table = write_table(tmp_path / "in", montage, "x_um,y_um", 0.004)
    options = ["-o", tmp_path / "m.ome.zarr", "--csv", tmp_path / "tiles.csv"]
    said = temline("stitch", table, *options, "--pixel-size", 3.5)
    assert said.code == 0
    assert "look at the pixel size" in said.out
    assert rms_error(montage, positions(tmp_path / "tiles.csv")) < 0.3


def test_the_mosaic_lies_where_the_stage_has_it(temline, montage, tmp_path):
    written = write_serialem(tmp_path / "in", montage)
    table, output = tmp_path / "tiles.csv", tmp_path / "m.ome.zarr"
    said = temline("stitch", *written.inputs, "-o", output, "--csv", table)
    assert said.code == 0
    (scales,) = zarr.open_group(output, mode="r").attrs["ome"]["multiscales"]
    scale, shift = scales["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([1, 4, 4])
    middles = positions(table) + 255.5
    nm = middles * scale["scale"][1:] + shift["translation"][1:]
    planned = montage.nominal[written.order] * 4  # y of the stage is upwards: -down
    # Each strays from where the stage should be, not all of them.
    assert np.abs((nm - planned).mean(axis=0)).max() < 8
    assert np.abs(nm - planned).max() > 8
