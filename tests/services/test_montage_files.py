"""`temline solve` and `temline export`: files of other systems against their truth, and back."""

from __future__ import annotations

import csv
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from callbacks.folders import DataFolders
from callbacks.tile_jobs import ProcessorSettings
from callbacks.tile_processor import TileProcessor
from callbacks.tiled_sink import TiledSink
from formats.conventions import Offsets
from formats.montage import MontageFileError
from formats.ome_tiff import write_ome_tiff
from formats.render import tile_specs
from formats.tilem import read_tilem
from services.cli import app
from services.errors import PlainError
from services.solve import Outputs, export, parse_offsets, run_solve
from services.solved_montage import place, solve_montage
from tests.callbacks.montage import SimulatedMontage, feed
from tests.callbacks.tiled import KEY, TiledProcess
from tests.formats.temca import Temca


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="_metadata_1.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def judge(montage, truth, limit=1.0):
    """Solve it and hold it against the truth; gives what was solved."""
    solved = solve_montage(montage)
    errors = truth.errors(solved.solution.translation.positions)
    sure = solved.solution.translation.well_connected
    assert sure.mean() > 0.9
    assert np.sqrt((errors[sure] ** 2).mean()) < limit
    return solved


# Reading and solving


@pytest.mark.parametrize("points", [True, False])
def test_a_montage_of_a_real_size_is_solved(write, points):
    truth = Temca(69, 51, polygon=True, unmatched=20, points=points)
    assert 2700 < len(truth.cells) < 2850
    montage = read_tilem(write(truth.metadata()))
    assert len(montage.edges.pairs) == truth.n_edges - 20
    assert montage.n_unmatched == 20
    solved = judge(montage, truth, limit=0.6)
    figures = solved.figures()
    assert figures["offset_px_median"] == pytest.approx(221, abs=8)
    assert figures["accepted"]
    assert figures["residual_px_median"] < 0.5
    assert truth.n_wrong * 0.7 <= figures["edges_rejected"] <= truth.n_wrong * 1.1
    assert len(solved.solution.translation.outliers) > 20


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param(Temca(points=False), id="beyond the stage"),
        pytest.param(Temca(points=False, signs={"top": -1}), id="as TileQC moves tiles"),
        pytest.param(Temca(points=False, sides=("right", "bottom")), id="right and bottom"),
        pytest.param(
            Temca(points=False, sides=("left", "top", "right", "bottom")), id="from both sides"
        ),
        pytest.param(
            Temca(
                points=False,
                sides=("left", "top", "right", "bottom"),
                signs={"top": -1, "right": -1},
            ),
            id="from both sides, of two signs",
        ),
        pytest.param(Temca(points=False, base="raster", stray=100), id="beyond the grid"),
        pytest.param(
            Temca(points=False, base="raster", stray=100, signs={"left": -1, "top": -1}),
            id="beyond the grid, of the neighbour",
        ),
        pytest.param(
            Temca(points=False, base="raster", stray=100, swapped=True), id="x along the rows"
        ),
        pytest.param(Temca(points=False, stray=100), id="beyond a straying stage"),
        pytest.param(
            Temca(points=False, base="nothing", signs={"left": -1, "top": -1}), id="whole distance"
        ),
        pytest.param(Temca(points=False, rows_down=False), id="rows count upwards"),
        pytest.param(Temca(rows_down=False), id="rows count upwards, with points"),
        pytest.param(Temca(points=False, stage_up=True, angle=0), id="stage upwards"),
        pytest.param(Temca(stage_up=True, angle=93), id="stage upwards, turned, with points"),
    ],
)
def test_what_offsets_mean_is_found_from_the_data(write, truth):
    judge(read_tilem(write(truth.metadata())), truth)


def test_what_points_tell_settles_the_signs_of_those_without(write):
    truth = Temca(signs={"left": -1, "top": -1})
    content = truth.metadata()
    for tile in content[1]["data"][20:]:
        for entry in tile["matcher"]:
            for name in ("pX", "pY", "qX", "qY"):
                del entry[name]
    montage = read_tilem(write(content))
    judge(montage, truth)
    assert "(−dX, −dY)" in montage.notes["dX, dY"]


def test_where_nothing_tells_the_signs_they_can_be_given(write):
    truth = Temca(points=False, signs={"left": -1, "top": -1})
    path = write(truth.metadata())
    assert "nothing in the file tells" in read_tilem(path).notes["dX, dY"]
    judge(read_tilem(path, parse_offsets("-x,-y")), truth)
    with pytest.raises(AssertionError):
        judge(read_tilem(path), truth)


def test_p_and_q_may_be_the_other_way_round(write):
    truth = Temca()
    text = json.dumps(truth.metadata())
    text = re.sub('"([pq])([XY])"', lambda m: f'"{"q" if m[1] == "p" else "p"}{m[2]}"', text)
    montage = read_tilem(write(text))
    judge(montage, truth)
    assert "p in the tile itself" in montage.notes["offsets"]


def test_the_least_that_an_entry_may_hold_is_enough(write):
    truth = Temca(points=False)
    tiles = [
        {
            "img_meta": {
                "stage_pos": truth.stage[number].tolist(),
                "raster_pos": truth.raster_pos(number),
            },
            "matcher": entries,
        }
        for number, entries in enumerate(truth.matchers)
    ]
    header = {"overlap": 0.13, "calibration": {"highmag": {"nm_per_pix": 3.95, "angle": 185}}}
    content = [{"metadata": header}, {"data": tiles}]
    montage = read_tilem(write(content))
    judge(montage, truth)
    assert montage.names[3] == "tile 3"
    # The same at the tile itself, the first tiles without any entry.
    flat = [{**tile["img_meta"], "matcher": tile["matcher"]} for tile in tiles]
    del flat[0]["matcher"]
    judge(read_tilem(write([{"metadata": header}, {"data": flat}])), truth)


def test_without_stage_positions_the_grid_tells_where_tiles_should_lie(write):
    truth = Temca()
    content = truth.metadata()
    for tile in content[1]["data"]:
        del tile["img_meta"]["stage_pos"]
    montage = read_tilem(write(content))
    solved = judge(montage, truth)
    assert np.isnan(montage.stage).all()
    assert math.isnan(place(solved).tiles[0].stage_x_um)
    content[0]["metadata"]["overlap"] = round(0.13 * 3840)  # px, as in messages of TEM_comms
    np.testing.assert_allclose(read_tilem(write(content)).nominal, montage.nominal, atol=20)


def test_tiles_without_a_stage_position_lie_where_the_others_say(write):
    truth = Temca()
    content = truth.metadata()
    for tile in content[1]["data"][::7]:
        tile["img_meta"]["stage_pos"] = None
    montage = read_tilem(write(content))
    np.testing.assert_allclose(
        montage.nominal - montage.nominal[0], truth.raster - truth.raster[0], atol=1
    )


@pytest.mark.parametrize("by_name", [True, False])
def test_newer_files_are_read(write, by_name):
    truth = Temca(stage_up=True, angle=12.0, sides=("left", "top", "right", "bottom"))
    tiles = []
    for number, (row, column) in enumerate(truth.cells):
        place_of = {"row": row, "column": column} if not by_name else {}
        if by_name:
            place_of = {"raster_position": [row, column]}
        tiles.append(
            {
                "tile_id": f"{number:03d}",
                "stage_position": dict(zip("xy", truth.stage[number].tolist(), strict=True)),
                "matches": truth.matchers[number],
                **place_of,
            }
        )
    content = {
        "tiles": {f"tile{n}": tile for n, tile in enumerate(tiles)} if by_name else tiles,
        "calibration": {"rotation_angle": 12.0, "pixel_size": 3.95},
        "acquisition_params": {"tile_size": 3840},
    }
    montage = read_tilem(write(content))
    judge(montage, truth)
    assert montage.shape == (3840, 3840)
    assert "against the image's" in montage.notes["stage"]


def test_of_several_entries_of_a_pair_one_wrong_one_does_not_count(write):
    truth = Temca(wrong=0.0, unmatched=0)
    content = truth.metadata()
    (entry,) = content[1]["data"][1]["matcher"]
    wrong = {**entry, "pX": [value + 90 for value in entry["pX"]], "match_quality": 1.0}
    content[1]["data"][1]["matcher"] = [wrong, entry, dict(entry)]
    montage = read_tilem(write(content))
    assert len(montage.edges.pairs) == truth.n_edges
    assert judge(montage, truth).solution.translation.outliers == ()


def test_affine_maps_bring_turned_tiles_together(write):
    truth = Temca(wrong=0.0, spread=20)
    content = truth.metadata()
    turn = 2e-3  # of every second column; 8 px across a tile
    for tile, (_, column) in zip(content[1]["data"], truth.cells, strict=True):
        for entry in tile["matcher"]:
            for name, odd in (
                ("q", column % 2),
                ("p", (column - (entry["position"] == 2)) % 2),
            ):
                x, y = np.array(entry[f"{name}X"]), np.array(entry[f"{name}Y"])
                entry[f"{name}X"] = (x - odd * turn * (y - 1920)).tolist()
                entry[f"{name}Y"] = (y + odd * turn * (x - 1920)).tolist()
    montage = read_tilem(write(content))
    moved, mapped = solve_montage(montage, "translation"), solve_montage(montage, "affine")
    assert mapped.agreement.median < moved.agreement.median / 2
    tiles = place(mapped).tiles
    maps = np.array([tile.map[:4] for tile in tiles])  # m00, m10, m01, m11
    np.testing.assert_allclose(maps[:, [0, 3]], 1, atol=2e-3)
    turned = (maps[:, 1] - maps[:, 2]) / 2
    odd = np.array([tile.column % 2 for tile in tiles], bool)
    # With three points an edge, the prior that holds the tiles' shape takes a part of it.
    assert -turn < turned[odd].mean() - turned[~odd].mean() < -0.6 * turn


# What cannot be read


def broken(path, value):
    content = Temca(3, 3, unmatched=0).metadata()
    part = content
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return content


TILE = (1, "data", 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        ("7", "holds a int; a montage is"),
        ([{"metadata": {}}], "holds the keys metadata; a montage is"),
        ([{"metadata": {}}, {"data": []}], "holds no tile"),
        ([{"metadata": {}}, {"data": [5]}], "tile 0: found 5, expected a mapping"),
        (
            broken((0, "metadata", "overlap"), "much"),
            "metadata: overlap: .*number.*found 'much'",
        ),
        (
            broken((*TILE, "img_meta", "stage_pos"), ["a", 1]),
            r"tile 4 \(20170_T4_1_1.tif\): stage_pos.*found 'a'",
        ),
        (
            broken((*TILE, "matcher", 0, "pX"), [1.0]),
            r"tile 4 \(20170_T4_1_1.tif\), left: pX, pY, qX and qY have the lengths \[1, 3\]",
        ),
        (
            broken((*TILE, "img_meta", "raster_pos"), [0, 0]),
            r"20170_T4_0_0.tif and 20170_T4_1_1.tif both stand in row 0, column 0",
        ),
        (
            [{"metadata": {}}, {"data": [{"img_path": "a.tif"}]}],
            r"tile 0 \(a.tif\): it tells no place in the grid; expected raster_pos",
        ),
        (
            [{"metadata": {}}, {"data": [{"raster_pos": [0, 0]}]}],
            "neither stage positions with a pixel size nor the overlap",
        ),
    ],
)
def test_files_of_another_form_say_what_was_found(write, content, message):
    with pytest.raises(MontageFileError, match=message) as refused:
        read_tilem(write(content))
    assert "_metadata_1.json" in str(refused.value)


def test_what_cannot_be_solved_or_written_is_a_plain_error(write, tmp_path):
    alone = Temca(2, 2, unmatched=0, sides=())
    with pytest.raises(MontageFileError, match="none of its 4 tiles tells of a match"):
        run_solve(write(alone.metadata()), Outputs())
    path = write(Temca(3, 3, points=False, unmatched=0).metadata())
    with pytest.raises(MontageFileError, match="holds no points"):
        run_solve(path, Outputs(), freedom="affine")
    with pytest.raises(MontageFileError, match="cannot be written: "):
        run_solve(path, Outputs(csv=tmp_path / "none" / "x.csv"))
    with pytest.raises(MontageFileError, match="image of tile 20170_T4_0_0 cannot be read"):
        run_solve(path, Outputs(ome=tmp_path / "ome"))
    assert list((tmp_path / "ome").iterdir()) == []
    with pytest.raises(MontageFileError, match="cannot be read: No such file"):
        read_tilem(tmp_path / "none.json")
    for text in ("z", "x", "x,x", "x,y roof"):
        with pytest.raises(PlainError, match="expected x and y with their signs"):
            parse_offsets(text)
    assert parse_offsets("-y,x raster") == Offsets("raster", True, 1, -1)


# What is written


def test_the_command_solves_tells_and_writes(write, tmp_path):
    truth = Temca(wrong=0.02)
    path = write(truth.metadata())
    outputs = [tmp_path / name for name in ("p.csv", "r.json", "f.json")]
    names = ("--csv", "--render", "--json")
    options = [str(part) for pair in zip(names, outputs, strict=True) for part in pair]
    result = CliRunner().invoke(app, ["solve", str(path), *options])
    assert result.exit_code == 0, result.output
    assert "accepted: neighbours disagree by" in result.output

    with outputs[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["row"]), int(row["column"])) for row in rows] == truth.cells
    places = np.array([[float(row["y_px"]), float(row["x_px"])] for row in rows])
    assert places.min() >= 0
    assert np.median(truth.errors(places)) < 0.6
    # Where the stage would be: its own place, moved by what the tile was.
    stage = np.array([[float(row["stage_x_um"]), float(row["stage_y_um"])] for row in rows])
    moved = (truth.true - truth.staged) * truth.pixel_size / 1000
    moved -= moved.mean(axis=0)
    c, s = np.cos(np.radians(truth.angle)), np.sin(np.radians(truth.angle))
    expected = np.column_stack(
        [moved[:, 1] * c - moved[:, 0] * s, moved[:, 1] * s + moved[:, 0] * c]
    )
    apart = stage - truth.stage / 1000 - expected
    assert np.median(np.abs(apart - np.median(apart, axis=0))) < 0.005

    specs = json.loads(outputs[1].read_text())
    check_tile_specs(specs, len(truth.cells))
    np.testing.assert_allclose([offset(spec) for spec in specs], places[:, ::-1], atol=1e-3)
    assert specs[1]["mipmapLevels"]["0"]["imageUrl"] == (tmp_path / "20170_T4_1_0.tif").as_uri()
    figures = json.loads(outputs[2].read_text())
    assert figures["tiles"] == len(truth.cells)
    assert figures["edges_rejected"] > 0


def test_what_does_not_fit_is_not_accepted(write):
    truth = Temca(wrong=0.0)
    content = truth.metadata()
    rng = np.random.default_rng(4)
    for tile in content[1]["data"]:
        for entry in tile["matcher"]:
            entry["pX"] = (np.array(entry["pX"]) + rng.normal(0, 20)).tolist()
    result = CliRunner().invoke(app, ["solve", str(write(content))])
    assert result.exit_code == 1
    assert "not accepted: the median disagreement of neighbours is" in result.output


def check_tile_specs(specs, count):
    """Hold tile specs against the rules of `render`."""
    assert len({spec["tileId"] for spec in specs}) == len(specs) == count
    for spec in specs:
        assert spec["width"] > 0
        assert spec["height"] > 0
        assert spec["minIntensity"] < spec["maxIntensity"]
        assert {"sectionId", "imageRow", "imageCol"} <= set(spec["layout"])
        assert spec["transforms"]["type"] == "list"
        (leaf,) = spec["transforms"]["specList"]
        assert leaf["type"] == "leaf"
        assert leaf["className"] == "mpicbg.trakem2.transform.AffineModel2D"
        assert len([float(value) for value in leaf["dataString"].split()]) == 6


def offset(spec):
    return [float(v) for v in spec["transforms"]["specList"][0]["dataString"].split()[4:]]


def ome_places(path):
    """Read the names, places (x, y) in µm and units of an OME-TIFF file's images."""
    with tifffile.TiffFile(path) as file:
        described = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        frames = [series.asarray() for series in file.series]
    planes = [image["Pixels"]["Plane"] for image in described]
    assert {plane["PositionXUnit"] for plane in planes} == {"µm"}
    places = np.array([[plane["PositionX"], plane["PositionY"]] for plane in planes])
    return [image["Name"] for image in described], places, frames, described


def test_images_beside_the_metadata_go_to_ome_tiff(write, tmp_path):
    truth = Temca(3, 4, side=64, spread=3, unmatched=0, wrong=0.0, overlap=0.3)
    path = write(truth.metadata())
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 60000, (64, 64), np.uint16) for _ in truth.cells]
    for (row, column), image in zip(truth.cells, images, strict=True):
        tifffile.imwrite(tmp_path / f"20170_T4_{column}_{row}.tif", image)
    assert run_solve(path, Outputs(ome=tmp_path / "ome"))
    names, places, frames, described = ome_places(tmp_path / "ome" / "_metadata_1.ome.tif")
    assert names[1] == "20170_T4_1_0"
    np.testing.assert_array_equal(frames, images)
    assert described[0]["Pixels"]["PhysicalSizeX"] == pytest.approx(0.00395)
    solved = places[:, ::-1] * [-1, 1] / 0.00395  # y is upwards
    assert truth.errors(solved).max() < 2


# Runs of this stack


@pytest.fixture(scope="module")
def acquired(tmp_path_factory):
    """A montage that was processed and written to Tiled; gives the client and the montage."""
    folder = tmp_path_factory.mktemp("tiled")
    tiled = TiledProcess(folder, folder)
    tiled.start()
    montage = SimulatedMontage(folder, rows=2, columns=3, seed=8)
    sink = TiledSink(tiled.uri, KEY, folder / "kept")
    with ThreadPoolExecutor(2) as pool:
        settings = ProcessorSettings(frame_timeout=0.3, reference_timeout=5.0)
        processor = TileProcessor(pool, sink, settings, DataFolders(folder))

        def both(name, doc):
            sink(name, doc)
            processor(name, doc)

        try:
            raw_uid = feed(both, montage.documents())
            assert processor.close(60)
            assert sink.close(60)
            yield tiled, montage, raw_uid
        finally:
            tiled.kill()


def test_a_processed_run_is_exported_in_every_form(acquired, tmp_path):
    tiled, montage, raw_uid = acquired
    client = tiled.client()
    outputs = Outputs(tmp_path / "p.csv", tmp_path / "r.json", tmp_path / "ome")
    export(client, raw_uid, outputs)
    with outputs.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = np.array([[float(row["y_px"]), float(row["x_px"])] for row in rows])
    apart = places - montage.true
    assert np.abs(apart - apart.mean(axis=0)).max() < 0.2
    specs = json.loads(outputs.render.read_text())
    check_tile_specs(specs, 6)
    np.testing.assert_allclose([offset(spec) for spec in specs], places[:, ::-1], atol=1e-3)

    (path,) = outputs.ome.iterdir()
    names, positions, frames, described = ome_places(path)
    assert names == [spec["tileId"] for spec in specs]
    size = described[0]["Pixels"]["PhysicalSizeX"]
    np.testing.assert_allclose(positions * [1, -1] / size, places[:, ::-1], atol=1e-3)
    # What is kept of each tile stands at the place of that very tile.
    uid = path.name.removesuffix(".ome.tif")
    kept = client[uid]["tile"]["frame"]
    table = client[uid]["tile"].base["internal"].read()
    for number, frame in enumerate(frames):
        at = int(np.flatnonzero(table["tile_index"] == number)[0])
        np.testing.assert_array_equal(frame, np.squeeze(kept[at]))
    # By the processed run's uid it is the same.
    again = Outputs(csv=tmp_path / "again.csv")
    export(client, uid, again)
    assert again.csv.read_text() == outputs.csv.read_text()


def test_runs_that_are_not_there_are_plain_errors(acquired, tmp_path):
    tiled, *_ = acquired
    with pytest.raises(MontageFileError, match="there is no run nonsense"):
        export(tiled.client(), "nonsense", Outputs(csv=tmp_path / "p.csv"))


def test_export_without_an_output_is_a_mistake():
    with pytest.raises(PlainError, match="nothing to write: give --csv"):
        CliRunner().invoke(app, ["export", "x"], catch_exceptions=False)


def test_ome_tiff_needs_a_pixel_size(write, tmp_path):
    truth = Temca(3, 3, unmatched=0)
    content = truth.metadata()
    content[0]["metadata"]["calibration"] = {}
    for tile in content[1]["data"]:
        tile["img_meta"] = {"raster_pos": tile["img_meta"]["raster_pos"]}
    placed = place(solve_montage(read_tilem(write(content))))
    with pytest.raises(MontageFileError, match="tells no pixel size"):
        write_ome_tiff(tmp_path, placed, [])
    assert "pixelsize" not in tile_specs(placed)[0]["layout"]
