"""`temline solve` and `temline export`: files of other systems to those of a lab's tools."""

from __future__ import annotations

import csv
import json
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
from formats.render_transforms import make_transform
from formats.tilem import read_tilem
from services.cli import app
from services.errors import PlainError
from services.solve import Outputs, export, parse_offsets, run_solve
from services.solved_montage import place, solve_montage
from tests.callbacks.montage import SIDE, SimulatedMontage, feed
from tests.callbacks.tiled import KEY, TiledProcess
from tests.formats.temca import Temca


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="_metadata_1.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def test_no_output_destroys_what_is_read(write, tmp_path):
    path = write(Temca(3, 3).metadata())
    before = path.read_text()
    for outputs, json_file in ((Outputs(csv=path), None), (Outputs(), path)):
        with pytest.raises(PlainError, match=r"json is a file that is read; give another name"):
            run_solve(path, outputs, json_file=json_file)
    with pytest.raises(PlainError, match="--csv and --render are both"):
        run_solve(path, Outputs(csv=tmp_path / "a", render=tmp_path / "a"))
    assert path.read_text() == before


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
    try:
        yield tiled, montage, process(montage, tiled, folder)
    finally:
        tiled.kill()


def process(montage, tiled, folder, **how):
    """Process a montage and write it to Tiled; give the uid of the raw run."""
    sink = TiledSink(tiled.uri, KEY, folder / "kept")
    with ThreadPoolExecutor(2) as pool:
        settings = ProcessorSettings(frame_timeout=0.3, reference_timeout=5.0, **how)
        processor = TileProcessor(pool, sink, settings, DataFolders(folder))

        def both(name, doc):
            sink(name, doc)
            processor(name, doc)

        raw_uid = feed(both, montage.documents())
        assert processor.close(60)
        assert sink.close(60)
    return raw_uid


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


def test_tiles_that_are_bent_are_exported_as_they_were_solved(acquired, tmp_path):
    tiled, *_ = acquired
    montage = SimulatedMontage(tmp_path, rows=3, columns=3, seed=9)
    uid = process(montage, tiled, tmp_path, freedom="affine+lens")
    export(tiled.client(), uid, Outputs(render=tmp_path / "r.json"))
    specs = json.loads((tmp_path / "r.json").read_text())
    assert len(specs) == 9
    shown = dict(zip(montage.places, montage.true, strict=True))

    def in_mosaic(spec, places):
        """Return where the mosaic shows places (row, column) of the specimen."""
        cell = spec["layout"]["imageRow"], spec["layout"]["imageCol"]
        xy = (places - shown[cell])[:, ::-1]
        for one in spec["transforms"]["specList"]:
            xy = make_transform(one["className"], one["dataString"])(xy)
        return xy

    for spec in specs:
        kinds = [one["className"].split(".")[-1] for one in spec["transforms"]["specList"]]
        assert kinds == ["PolynomialTransform2D", "AffineModel2D"]
    middle = next(spec for spec in specs if spec["layout"]["imageRow"] == 1)
    both = shown[1, middle["layout"]["imageCol"]]
    for spec in specs:
        row, column = spec["layout"]["imageRow"], spec["layout"]["imageCol"]
        if abs(row - 1) + abs(column - middle["layout"]["imageCol"]) != 1:
            continue
        other = shown[row, column]
        first, last = np.maximum(both, other), np.minimum(both, other) + SIDE - 1
        places = np.random.default_rng(0).uniform(first, last, (50, 2))
        apart = in_mosaic(middle, places) - in_mosaic(spec, places)
        assert np.median(np.hypot(*apart.T)) < 0.2


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
