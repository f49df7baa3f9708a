"""Metadata of TilEM and TEMCA, of the forms that there are, held against the truth."""

from __future__ import annotations

import gzip
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.montage import MontageFileError
from formats.tilem import read_tilem
from services.solve import parse_offsets
from services.solved_montage import place, solve_montage
from tests.formats.temca import RealTemca, Temca
from tests.formats.tiles import read_or_refuse


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
    meaning = None if points else parse_offsets("-x,-y raster")
    montage = read_tilem(write(truth.metadata()), meaning)
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
    assert "(dX, dY)" in montage.notes["dX, dY"]
    assert not montage.doubts


def test_where_nothing_tells_the_signs_they_can_be_given(write):
    truth = Temca(points=False, signs={"left": -1, "top": -1})
    path = write(truth.metadata())
    guessed = read_tilem(path)
    assert "nothing in this one tells" in guessed.notes["dX, dY"]
    assert 'confirm with --offsets "-x,-y raster"' in solve_montage(guessed).reasons[0]
    told = read_tilem(path, parse_offsets("x,y"))
    judge(told, truth)
    assert not told.doubts
    with pytest.raises(AssertionError):
        judge(read_tilem(path), truth)


@pytest.mark.parametrize(("side", "far"), [(384, 0), (3840, 1e30)])
def test_points_outside_of_the_tiles_are_refused(write, side, far):
    truth = RealTemca(4, 4)
    content = truth.metadata()
    content[0]["metadata"]["camera_info"] |= {"width": side, "height": side}
    entries = [entry for tile in content[1]["data"] for entry in tile["matcher"]]
    first = next(entry for entry in entries if entry["match_quality"] > 0)
    first["pX"][0] += far
    with pytest.raises(MontageFileError, match=r"outside of tiles of \d+ × \d+ px; expected"):
        read_tilem(write(content))


def test_a_stage_that_was_not_read_is_left_out(write):
    truth = RealTemca(8, 9)
    content = truth.metadata()
    for tile in content[1]["data"]:
        tile["img_meta"]["stage_pos"] = [1000.0, -2000.0]
    montage = read_tilem(write(content))
    assert "all the same" in montage.notes["stage"]
    # Without it, points may be read against the wrong neighbours: then nobody accepts it.
    solved = solve_montage(montage)
    assert solved.accepted == (solved.agreement.p95 < 1.5)


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
            r"tile 4 \(20170_T4_1_1.tif\), matcher 0: pX, pY, qX and qY have the lengths \[1, 3\]",
        ),
        (
            broken((*TILE, "matcher", 0, "pX"), [math.nan, 1.0, 2.0]),
            r"tile 4 \(20170_T4_1_1.tif\): matcher.0.pX.0: .*finite number, found nan",
        ),
        (
            broken((*TILE, "matcher", 0, "dX"), math.inf),
            r"matcher.0.dX: .*finite number, found inf",
        ),
        (broken((*TILE, "img_meta"), [1]), r"tile 4 .*: img_meta: found \[1\], expected a mapping"),
        (broken((*TILE, "matcher"), {"a": 1}), "tile 4 .*: matcher: .* valid list, found {'a': 1}"),
        (
            broken((0, "metadata", "calibration", "highmag"), [1]),
            r"metadata: highmag: found \[1\], expected a mapping",
        ),
        (broken((0, "metadata", "calibration"), 3), "calibration: found 3, expected a mapping"),
        (broken((0, "metadata", "camera_info", "width"), -5), "width: .*greater than 0, found -5"),
        (broken((*TILE, "img_meta", "raster_pos"), [1e300, 0]), "raster_pos.*found 1e"),
        ("[]", "holds an empty list; a montage is"),
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


# As TEMCA writes it


@pytest.mark.parametrize(
    ("truth", "sides"),
    [
        (RealTemca(), "2 left, 3 top"),
        # The same numbers are other sides where p is in the tile itself: loops tell.
        (RealTemca(p_in_tile=True, codes=(3, 0)), "0 top, 3 left"),
        (RealTemca(codes=(7, 9)), "7 left, 9 top"),
    ],
    ids=["TEMCA's codes", "clockwise", "codes that nobody knows"],
)
def test_a_file_in_the_form_of_a_real_one_is_read_and_solved(write, truth, sides):
    montage = read_tilem(write(truth.metadata()))
    assert montage.notes["sides"] == sides
    assert len(montage.edges.pairs) == truth.n_edges - truth.unmatched
    assert montage.n_unmatched == truth.unmatched
    assert {len(points) for points in montage.edges.points} == {10}
    solved = solve_montage(montage)
    assert solved.accepted
    assert solved.solution.translation.outliers == ()
    assert solved.solution.model.freedom == "affine+lens"
    assert solved.agreement.p95 < 1.5
    # All over each tile, up to an affine map of the whole, pixels come to where they lie.
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, truth.side - 1, (20, 2))
    tiles = np.arange(len(truth.cells))
    true = np.array([truth.bent(tile, pixels) for tile in tiles]).reshape(-1, 2)
    found = solved.solution.maps.forward(tiles[:, None], pixels).reshape(-1, 2)
    terms = np.column_stack([np.ones(len(found)), (found - found.mean(axis=0)) / found.std()])
    left = true - terms @ np.linalg.lstsq(terms, true, rcond=None)[0]
    assert np.sqrt((left**2).sum(axis=1).mean()) < 10.0


def test_a_gzipped_file_is_read(tmp_path):
    truth = RealTemca(6, 6)
    path = tmp_path / "_metadata_1.json.gz"
    path.write_bytes(gzip.compress(json.dumps(truth.metadata()).encode()))
    assert len(read_tilem(path).edges.pairs) == truth.n_edges - truth.unmatched


def test_a_tile_that_was_taken_again_counts_as_it_was_taken_last(write):
    truth = RealTemca(again=3)
    montage = read_tilem(write(truth.metadata()))
    assert len(montage.names) == len(truth.cells)
    assert not any("first" in name for name in montage.names)
    assert montage.notes["taken again"] == "3 tiles; the last of each counts"
    assert solve_montage(montage).accepted


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("row0/tile_0.tif", "row1/tile_0.tif"), ("row0/tile_0.tif", "row1/tile_0.tif")),
        ((r"C:\data\a\t.tif", r"C:\data\b\t.tif"), ("a/t.tif", "b/t.tif")),
        (("one.tif", "one.tif"), ("one.tif", "one.tif (2)")),
    ],
)
def test_names_keep_tiles_apart(write, names, expected):
    content = Temca(1, 2, unmatched=0, wrong=0.0).metadata()
    for tile, name in zip(content[1]["data"], names, strict=True):
        tile["img_path"] = name
    montage = read_tilem(write(content))
    assert montage.names == expected
    ids = [tile.tile for tile in place(solve_montage(montage)).tiles]
    assert len(set(ids)) == 2


def test_matches_that_fit_no_convention_are_refused(write):
    """Sides that are mixed up at random: no reading closes their loops."""
    truth = Temca(spread=300.0, points=False, wrong=0.0)
    content = truth.metadata()
    rng = np.random.default_rng(0)
    entries = [entry for tile in content[1]["data"] for entry in tile["matcher"]]
    mixed = rng.permutation(len(entries))
    values = [(entry["dX"], entry["dY"]) for entry in entries]
    for entry, other in zip(entries, mixed, strict=True):
        entry["dX"], entry["dY"] = values[other]
    with pytest.raises(MontageFileError, match="fit no known convention: .* loops of four"):
        read_tilem(write(content))


def test_a_grid_with_a_far_cell_needs_no_memory_for_what_is_between(write):
    content = Temca(3, 3, unmatched=0).metadata()
    content[1]["data"][8]["img_meta"]["raster_pos"] = [900_000, 900_000]
    assert len(read_tilem(write(content)).names) == 9


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = [
    (0, "metadata"), (0, "metadata", "overlap"), (0, "metadata", "calibration"),
    (0, "metadata", "calibration", "highmag"), (0, "metadata", "camera_info"), (1, "data"),
    (1, "data", 4), (1, "data", 4, "img_path"), (1, "data", 4, "img_meta"),
    (1, "data", 4, "img_meta", "stage_pos"), (1, "data", 4, "img_meta", "raster_pos"),
    (1, "data", 4, "img_meta", "angle"), (1, "data", 4, "matcher"), (1, "data", 4, "matcher", 0),
    (1, "data", 4, "matcher", 0, "position"), (1, "data", 4, "matcher", 0, "pX"),
    (1, "data", 4, "matcher", 0, "match_quality"), (1, "data", 4, "matcher", 0, "row"),
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KEYS), anything)
def test_whatever_stands_in_a_file_it_is_read_or_refused_in_one_line(tmp_path_factory, keys, value):
    content = RealTemca(3, 4, unmatched=0).metadata()
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path = tmp_path_factory.mktemp("any") / "_metadata_1.json"
    path.write_text(json.dumps(content))
    montage = read_or_refuse([path])
    if montage is not None:
        assert np.isfinite(montage.edges.offsets).all()
