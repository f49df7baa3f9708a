"""`temline stitch`: light, masks, matches that are there, tiles that do not match, what ends it."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import tifffile
import zarr

from formats.options import ReadOptions
from services.stitch import StitchRequest, run, stitch
from services.stitch.request import shutil as request_shutil
from tests.formats.temca import Temca
from tests.processing.scenes import cut, expose, texture
from tests.services.stitch.files import rms_error, write_folder

SIDE, PITCH = 160, 130


@pytest.fixture(scope="module")
def scene():
    return texture(1024, 3)


def write_tiles(folder, scene, rows=3, columns=4, change=lambda index, tile: tile):
    """Write tiles of a scene; `change` makes of each what the camera would."""
    folder.mkdir()
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        tile = expose(cut(scene, (row * PITCH, column * PITCH), (SIDE, SIDE)), 8, seed=index)
        tifffile.imwrite(folder / f"t_r{row}_c{column}.tif", change(index, tile))
    return folder


def stitched(folder, output, **options):
    return stitch(StitchRequest((folder,), output, **options))


def seams(found):
    """Return how far tiles, only moved, are from the pitch, in px."""
    expected = found.solved.montage.cells * PITCH
    off = found.solved.solution.translation.positions - expected
    return np.abs(off - off.mean(axis=0)).max()


def unevenness(output, scene):
    """Return how much blocks of a mosaic differ in brightness from those of the scene, relative."""
    mosaic = zarr.open_group(output, mode="r")["0"][0].astype(float)
    whole = cut(scene, (0, 0), mosaic.shape)
    gain = mosaic / (mosaic.mean() + whole * (mosaic.std() / whole.std()))
    blocks = gain[: 2 * PITCH, : 3 * PITCH].reshape(2 * PITCH // 26, 26, 3 * PITCH // 26, 26)
    return blocks.mean(axis=(1, 3)).std()


# Light


def bright_and_dark(folder):
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    beam = 1 - 0.3 * (x**2 + y**2)
    tifffile.imwrite(folder / "bright.tif", (4000 * beam + 100).astype(np.uint16))
    tifffile.imwrite(
        folder / "dark.tif", np.full((3, SIDE, SIDE), 100, np.uint16), photometric="minisblack"
    )
    return beam


def test_given_references_even_the_light(scene, tmp_path):
    beam = bright_and_dark(tmp_path)
    folder = write_tiles(
        tmp_path / "in", scene, change=lambda _, tile: (tile * beam + 100).astype(np.uint16)
    )
    output = tmp_path / "m.ome.zarr"
    found = stitched(
        folder,
        output,
        bright=tmp_path / "bright.tif",
        dark=tmp_path / "dark.tif",
        freedom="translation",
        seam="cut",
    )
    assert found.solved.montage.notes["flat field"] == "by bright.tif and dark.tif"
    assert seams(found) < 0.1
    assert unevenness(output, scene) < 0.01


@pytest.mark.parametrize("flat", [True, False])
def test_light_is_estimated_from_the_tiles_unless_unwanted(scene, tmp_path, flat):
    beam = bright_and_dark(tmp_path)
    folder = write_tiles(
        tmp_path / "in", scene, 5, 5, change=lambda _, tile: (tile * beam).astype(np.uint16)
    )
    output = tmp_path / "m.ome.zarr"
    found = stitched(folder, output, flat=flat, freedom="translation", seam="cut")
    told = found.solved.montage.notes["flat field"]
    assert told.startswith("estimated from 25 tiles: uneven by" if flat else "none, as asked")
    assert seams(found) < 0.4
    assert (unevenness(output, scene) < 0.02) == flat


def test_few_tiles_tell_no_light(scene, tmp_path):
    folder = write_tiles(tmp_path / "in", scene, 2, 2)
    found = stitched(folder, tmp_path / "m.ome.zarr")
    assert "4 tiles are too few to tell it" in found.solved.montage.notes["flat field"]


# Masks, and numbers


def test_black_corners_stay_out_of_the_mosaic(scene, tmp_path):
    """As of tiles that another tool turned and filled up."""
    cut_off = np.add.outer(np.arange(SIDE), np.arange(SIDE)) < 40

    def masked(_, tile):
        return np.where(cut_off, 0, tile)

    folder = write_tiles(tmp_path / "in", scene, change=masked)
    output = tmp_path / "m.ome.zarr"
    found = stitched(folder, output)
    assert seams(found) < 0.1
    assert all(0.01 < one["masked"] < 0.06 for one in found.quality.figures)
    mosaic = zarr.open_group(output, mode="r")["0"][0]
    assert not mosaic[:10, :10].any()  # nobody else saw it
    assert (mosaic[PITCH : 2 * PITCH, PITCH : 2 * PITCH] > 0).all()


def test_bytes_and_floats_are_stitched_alike(scene, tmp_path):
    def to_bytes(_, tile):
        return np.clip((tile - 8000.0) / 32, 0, 255).astype(np.uint8)

    def to_floats(_, tile):
        return (tile / 3000).astype(np.float32)

    for name, change in (("u8", to_bytes), ("f4", to_floats)):
        folder = write_tiles(tmp_path / name, scene, change=change)
        found = stitched(folder, tmp_path / f"{name}.ome.zarr")
        assert found.solved.accepted
        assert seams(found) < 0.1


# Matches


@pytest.fixture
def temca(scene, tmp_path):
    """Metadata of TEMCA with matches, and images that lie otherwise."""
    truth = Temca(3, 4, side=SIDE, overlap=0.2, spread=2.0, wrong=0.0, unmatched=0)
    folder = tmp_path / "temca"
    folder.mkdir()
    (folder / "_metadata_1.json").write_text(json.dumps(truth.metadata()))
    for number, (row, column) in enumerate(truth.cells):
        # By images, one tile lies 3 px farther down than by the matches of the file.
        place = truth.true[number] + ((3, 0) if (row, column) == (1, 1) else (0, 0)) + 50
        tile = expose(cut(scene, tuple(place), (SIDE, SIDE)), 8, seed=number)
        tifffile.imwrite(folder / f"20170_T4_{column}_{row}.tif", tile)
    return folder, truth


@pytest.mark.parametrize("anew", [False, True])
def test_matches_of_the_input_are_used_unless_images_are_to_match_anew(temca, tmp_path, anew):
    folder, truth = temca
    found = stitched(folder / "_metadata_1.json", tmp_path / "m.ome.zarr", match_anew=anew)
    middles = found.solved.solution.maps.middles
    errors = truth.errors(middles)
    middle = truth.cells.index((1, 1))
    assert errors[middle] == pytest.approx(3.0 if anew else 0.0, abs=1.0)
    assert np.delete(errors, middle).max() < 1.0
    assert ("matched" in found.solved.montage.notes) != anew
    assert len(found.quality.figures) == 12


def test_tiles_that_do_not_match_are_laid_where_they_are_planned_and_not_accepted(
    temline, tmp_path
):
    noise = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for row in range(3):
        for column in range(4):
            tile = noise.integers(400, 600, (SIDE, SIDE)).astype(np.uint16)
            tifffile.imwrite(folder / f"t_r{row}_c{column}.tif", tile)
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr", "--overlap", 20)
    assert said.code == 1
    assert "not accepted: no two tiles match" in said.out
    shape = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")["0"].shape[1:]
    assert shape == (SIDE + 2 * 128, SIDE + 3 * 128)
    said = temline("stitch", folder, "-o", tmp_path / "n.ome.zarr")
    assert said.code == 1
    assert "give it, or positions (--overlap, --pattern)" in said.err
    assert not (tmp_path / "n.ome.zarr").exists()


def test_a_blurred_tile_is_named(scene, tmp_path):
    import cv2

    def blurred(index, tile):
        return cv2.GaussianBlur(tile, (0, 0), 3) if index == 5 else tile

    folder = write_tiles(tmp_path / "in", scene, change=blurred)
    found = stitched(folder, tmp_path / "m.ome.zarr")
    verdicts = [verdict.verdict for verdict in found.quality.verdicts]
    assert [index for index, one in enumerate(verdicts) if one == "fail"] == [5]
    assert "1 of 12 fail (" in found.quality.told()


def test_a_montage_with_real_faults_is_bent_as_it_needs(real_montage, tmp_path):
    written = write_folder(tmp_path / "in", real_montage)
    found = stitched(
        written.inputs[0], tmp_path / "m.ome.zarr", options=ReadOptions(pixel_size=4.0)
    )
    solution = found.solved.solution
    errors = real_montage.errors(solution.maps.forward)
    by_shifts = rms_error(real_montage, solution.translation.positions)
    assert found.solved.accepted
    assert np.sqrt((errors**2).mean()) < 0.75 * by_shifts
    assert zarr.open_group(tmp_path / "m.ome.zarr", mode="r").attrs["temline"]["interpolated"]


# What ends it


def test_ctrl_c_leaves_nothing_behind(scene, tmp_path, monkeypatch):
    folder = write_tiles(tmp_path / "in", scene)

    def interrupted(block):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run, "write_block", interrupted)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        stitched(folder, tmp_path / "m.ome.zarr")
    assert set(tmp_path.rglob("*")) == before


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(
    scene, tmp_path, monkeypatch, temline
):
    def full(block):
        raise OSError(28, "No space left on device", str(tmp_path / "m.ome.zarr.part"))

    folder = write_tiles(tmp_path / "in", scene)
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(run, "write_block", full)
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr")
    assert said.code == 1
    assert said.err.startswith("temline: ")
    assert "No space left on device" in said.err
    assert set(tmp_path.rglob("*")) == before


WRONG = {
    "an output that exists": (["-o", "."], "exists; move it away"),
    "a folder that is a file": (["-o", "in/t_r0_c0.tif/m.zarr"], "is a file, and no folder"),
    "a table that is a folder": (["--csv", "in"], "is a folder; give the name of a file"),
    "dark without bright": (["--dark", "in/t_r0_c0.tif"], "--dark tells nothing without --bright"),
    "a bright image of another size": (["--bright", "small.tif"], "they must have one size"),
    "a bright image that is none": (["--bright", "none.tif"], "there is no such file"),
    "a bright image without light": (["--bright", "black.tif"], "it must be above"),
    "an mdoc for single images": (["--mdoc", "a.mdoc"], "an .mdoc is for tiles in one stack"),
    "a pattern that fits nothing": (["--pattern", "x{row}_{col}.tif"], "has a name of the pattern"),
    "an overlap beyond all": (["--overlap", "99"], "must lie between 0 and 95 %"),
    "a pixel size of nothing": (["--pixel-size", "0"], "must be positive and finite"),
    "no such input": (["nowhere"], "there is no such file or folder"),
    "a table over a tile": (["--csv", "in/t_r0_c0.tif"], "--csv in/t_r0_c0.tif is a file that is"),
    "figures over what lights": (
        ["--bright", "small.tif", "--json", "./in/../small.tif"],
        "small.tif is a file that is read",
    ),
    "two outputs of one name": (["--csv", "a", "--json", "./a"], "--csv and --json are both"),
    "a name that is too long": (["-o", f"{'x' * 300}.zarr"], "is no name of a file: File name too"),
    "a mosaic as an image": (["-o", "mosaic.tif"], "give an --output that ends in .ome.zarr"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line_before_anything_starts(
    scene, tmp_path, temline, monkeypatch, case
):
    monkeypatch.chdir(tmp_path)
    write_tiles(tmp_path / "in", scene, 2, 2)
    tifffile.imwrite("small.tif", np.ones((50, 50), np.uint16))
    tifffile.imwrite("black.tif", np.zeros((SIDE, SIDE), np.uint16))
    before = set(tmp_path.rglob("*"))

    def never(*_, **__):
        raise AssertionError("it started")

    monkeypatch.setattr(run, "find_placement", never)
    monkeypatch.setattr(run, "found_light", never)
    options, message = WRONG[case]
    said = temline("stitch", "in", *options)
    assert said.code == 1
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert message in said.err
    assert set(tmp_path.rglob("*")) == before


def test_room_on_the_disk_is_asked_for_beforehand(scene, tmp_path, temline, monkeypatch):
    folder = write_tiles(tmp_path / "in", scene, 2, 2)
    usage = request_shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("services.stitch.request.shutil.disk_usage", lambda _: usage)
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr")
    assert said.code == 1
    assert "may be needed and 0.0 GB are free" in said.err


@pytest.mark.parametrize("side", [63, 64, 100])
def test_small_tiles_are_stitched_and_smaller_ones_refused(scene, tmp_path, temline, side):
    folder = tmp_path / "in"
    folder.mkdir()
    for column in range(3):
        tile = expose(cut(scene, (0, column * side // 2), (side, side)), 20, seed=column)
        tifffile.imwrite(folder / f"t_r0_c{column}.tif", tile)
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr", "--overlap", 50)
    assert (said.code == 0) == (side >= 64)
    if side < 64:
        assert "tiles have 63 × 63 px; they must have 64 px or more on each side" in said.err


def test_maps_beyond_belief_are_told_in_one_line(scene, tmp_path, temline, monkeypatch):
    def solve_edges(montage, freedom):
        raise ValueError("the map of tile 3 turns, scales or shears it by 0.4")

    folder = write_tiles(tmp_path / "in", scene)
    monkeypatch.setattr(run, "solve_edges", solve_edges)
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr")
    assert said.code == 1
    assert said.err == (
        f"temline: {folder}: the map of tile 3 turns, scales or shears it by 0.4 "
        "(--model translation)\n"
    )


def test_a_tile_that_is_damaged_is_named(scene, tmp_path, temline):
    folder = write_tiles(tmp_path / "in", scene)
    path = folder / "t_r1_c2.tif"
    tifffile.imwrite(path, tifffile.imread(path), compression="zlib")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    said = temline("stitch", folder, "-o", tmp_path / "m.ome.zarr", "--no-flat")
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert path.name in said.err
    assert not list(tmp_path.glob("m.*"))


def test_the_picture_is_shown_where_a_terminal_can(scene, tmp_path):
    from io import StringIO

    from rich.console import Console

    from services.stitch.report import tell

    found = stitched(write_tiles(tmp_path / "in", scene), tmp_path / "m.ome.zarr")
    for terminal in (True, False):
        text = StringIO()
        tell(Console(file=text, force_terminal=terminal, color_system="truecolor"), found)
        assert ("▀" in text.getvalue()) == terminal
