"""Tile specs of `render`: forms of its files, URLs, masks, transforms, and back."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.errors import FormatError
from formats.images import open_image
from formats.montage import ImageSource, MontageFileError, PlacedMontage, PlacedTile
from formats.options import ReadOptions
from formats.readers import read_montage
from formats.render import tile_specs, write_render
from formats.render_transforms import TransformError, fit_affine, in_turn, make_transform
from tests.formats.render_specs import MPICBG, TILES, spec
from tests.formats.tiles import HEIGHT, WIDTH, matches, read_or_refuse

LENS = "LENS_CORRECTION_temca7_camera0"


@pytest.fixture
def images(tmp_path):
    """The tiles' images under names that URLs have to escape; gives their paths."""
    folder = tmp_path / "tem images"
    folder.mkdir()
    paths = [folder / f"col{c:04d}_row{r:04d} ñ%20#.tif" for r, c in TILES.cells]
    for path, image in zip(paths, TILES.images, strict=True):
        tifffile.imwrite(path, image)
    return paths


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="tiles.json"):
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write_file


def specs_of(paths, make=lambda path: path.as_uri()):
    return [spec(number, make(path)) for number, path in enumerate(paths)]


def test_a_list_of_tile_specs_is_read(images, write):
    montage = read_montage([write(specs_of(images))])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells - montage.cells[0], TILES.cells)
    assert montage.cells[0].tolist() == [21, 75]
    assert montage.pixel_size == 4.0
    assert montage.names[0] == "1503041411210000000.3407.0"
    np.testing.assert_allclose(montage.maps[:, :, 2], np.add(TILES.places, (-900, 7000)), atol=1e-6)
    np.testing.assert_allclose(montage.maps[:, :, :2], np.tile(np.eye(2), (11, 1, 1)), atol=1e-9)
    # nm became µm, for they agree with places and pixel size.
    np.testing.assert_allclose(montage.to_stage @ [0, 1], [0.004, 0], atol=1e-9)
    np.testing.assert_allclose(montage.to_stage @ [1, 0], [0, -0.004], atol=1e-9)


@pytest.mark.parametrize("form", ["gzipped", "misnamed", "resolved", "parameters", "with lists"])
def test_other_forms_of_files_are_read(images, write, form):
    specs = specs_of(images)
    if form in ("gzipped", "misnamed"):
        path = write(specs, "tiles.json.gz")
        path = path.rename(path.with_suffix("")) if form == "misnamed" else path
    elif form == "resolved":
        by_id = {one["tileId"]: one for one in specs}
        path = write({"stackName": "v1", "transformIdToSpecMap": {}, "tileIdToSpecMap": by_id})
    elif form == "parameters":
        path = write({"x": 0.0, "y": 0.0, "scale": 1.0, "tileSpecs": specs})
    else:
        for one in specs:
            one["transforms"]["specList"] = [
                {"type": "list", "specList": one["transforms"]["specList"]},
                {"className": f"{MPICBG}.AffineModel2D", "dataString": "1  0  0  1  .0 -1.5E1 "},
            ]
        path = write(specs)
    assert matches(read_montage([path]), TILES)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.as_uri(),  # file:///…
        lambda path: path.as_uri().replace("file:///", "file:/"),
        lambda path: path.as_uri().replace("file:///", "file://localhost/"),
        lambda path: f"file:{path}",  # not escaped
        str,
        lambda path: f"tem images/{path.name}",
        lambda path: f"file:/moved/from/elsewhere/{path.parent.name}/{path.name}",
        lambda path: rf"D:\data\tem images\{path.name}",
        lambda path: f"file:///D:/data/{path.parent.name}/{path.name}",
    ],
)
def test_urls_and_paths_lead_to_files(images, write, make):
    for path in images:  # Names that are not escaped must not look as if they were.
        path.rename(path.with_name(path.name.replace("%20#", "")))
    plain = [path.with_name(path.name.replace("%20#", "")) for path in images]
    assert matches(read_montage([write(specs_of(plain, make))]), TILES)


def test_an_image_in_a_stack_is_told_by_its_slice(tmp_path, write):
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.array(TILES.images), imagej=True)
    specs = specs_of([stack] * 11)
    for number, one in enumerate(specs):
        one["mipmapLevels"]["0"] |= {
            "imageLoaderType": "IMAGEJ_TIFF_STACK",
            "imageSliceNumber": number + 1,
        }
    montage = read_montage([write(specs)])
    assert matches(montage, TILES)
    assert [source.page for source in montage.images] == list(range(11))


def test_masks_come_along(images, write, tmp_path):
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:3] = 0
    cv2.imwrite(str(tmp_path / "temca7_cam0.png"), mask)
    specs = specs_of(images)
    for one in specs[1:]:
        one["mipmapLevels"]["0"]["maskUrl"] = "temca7_cam0.png"
    montage = read_montage([write(specs)])
    assert montage.masks[0] is None
    np.testing.assert_array_equal(open_image(montage.masks[1].path).read(), mask)
    cv2.imwrite(str(tmp_path / "temca7_cam0.png"), mask[1:])
    with pytest.raises(MontageFileError, match="masks have 23 × 32 px and tiles 24 × 32"):
        read_montage([write(specs)])


def test_without_masks_there_are_none(images, write):
    assert read_montage([write(specs_of(images))]).masks == ()


def test_tiles_need_no_more_than_an_image_and_a_transform(images, write):
    specs = [
        {name: one[name] for name in ("tileId", "mipmapLevels", "transforms")}
        for one in specs_of(images)
    ]
    montage = read_montage([write(specs)])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    assert math.isnan(montage.pixel_size)
    assert np.isnan(montage.stage).all()


def test_a_stage_in_no_known_unit_and_a_pixel_size_that_none_has_are_left_out(images, write):
    specs = specs_of(images)
    for one in specs:
        one["layout"]["stageX"] *= 1000
        one["layout"]["stageY"] *= 1000
    assert np.isnan(read_montage([write(specs)]).to_stage).all()
    for one in specs:
        one["layout"]["pixelsize"] = 0.1
    montage = read_montage([write(specs)])
    assert math.isnan(montage.pixel_size)
    assert "0.1, which cannot be nm" in montage.notes["pixelsize"]


def test_a_section_of_several_is_chosen_and_a_tile_taken_twice_takes_the_last(images, write):
    wrong = spec(0, "nowhere.tif")
    others = [
        one | {"z": 3408.0, "tileId": f"x{number}", "layout": {"sectionId": "3408.1"}}
        for number, one in enumerate(specs_of(images))
    ]
    path = write([wrong, *others, *specs_of(images)])
    with pytest.raises(
        MontageFileError, match="holds 2 montages, the sections 3407, 3408; choose one"
    ):
        read_montage([path])
    for section in ("3407", "3407.0"):
        montage = read_montage([path], ReadOptions(section=section))
        assert matches(montage, TILES)
        assert montage.notes["left out"] == "12 tiles, of other sections or taken again"
    assert read_montage([path], ReadOptions(section="3408.1")).names[0] == "x0"


# Transforms


def lens(degree=3, bend=2.0):
    """Return a NonLinearCoordinateTransform that bends tiles by some px, as a data string."""
    length = (degree + 1) * (degree + 2) // 2
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    powers = [(n - k, k) for n in range(1, degree + 1) for k in range(n + 1)]
    terms = np.column_stack([(x**i * y**j).ravel() for i, j in powers]).astype(float)
    mean, deviation = terms.mean(axis=0), terms.std(axis=0)
    design = np.column_stack([(terms - mean) / deviation, np.full(len(terms), 100.0)])
    u, v = (x / WIDTH - 0.5).ravel(), (y / HEIGHT - 0.5).ravel()
    moved = np.column_stack(
        [x.ravel() + bend * u * (u**2 + v**2), y.ravel() + bend * v * (u**2 + v**2)]
    )
    beta = np.linalg.lstsq(design, moved, rcond=None)[0]
    numbers = [*beta.ravel(), *mean, 100.0, *deviation, 0.0]
    data = f"{degree} {length} {' '.join(repr(float(one)) for one in numbers)} {HEIGHT} {WIDTH} "
    return data, np.column_stack([x.ravel(), y.ravel()]).astype(float), moved


def test_transforms_move_points_as_their_classes_say():
    xy = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    c, s = math.cos(0.3), math.sin(0.3)
    turned = xy @ [[c, s], [-s, c]]
    for name, data, expected in (
        ("AffineModel2D", "1 2 3 4 5 6", [[5, 6], [15, 26], [35, 46]]),
        ("TranslationModel2D", "5 -6", np.add(xy, (5, -6))),
        ("RigidModel2D", "0.3 5 6", np.add(turned, (5, 6))),
        ("SimilarityModel2D", f"{2 * c} {2 * s} 5 6", np.add(2 * turned, (5, 6))),
        ("PolynomialTransform2D", "1 2 3 4 5 6", [[1, 4], [21, 54], [31, 64]]),
        (
            "PolynomialTransform2D",
            "0 1 0 0.1 0 0 0 0 1 0 0.2 0",
            [[0, 0], [20, 0], [0, 10]],
        ),
    ):
        found = make_transform(f"{MPICBG}.{name}", data)(xy)
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)


def test_a_lens_correction_is_evaluated():
    data, xy, moved = lens()
    for name in (f"{MPICBG}.NonLinearCoordinateTransform", "lenscorrection.NonLinearTransform"):
        np.testing.assert_allclose(make_transform(name, data)(xy), moved, atol=1e-9)


def test_the_nearest_affine_map_is_told_with_its_misfit():
    exact, misfit = fit_affine(in_turn([make_transform("AffineModel2D", "1 2 3 4 5 6")]), (9, 7), 5)
    np.testing.assert_allclose(exact, [[4, 2, 6], [3, 1, 5]], atol=1e-9)
    assert misfit < 1e-9
    bent = make_transform("NonLinearCoordinateTransform", lens()[0])
    assert 0.1 < fit_affine(bent, (HEIGHT, WIDTH), 9)[1] < 2.0


def test_shared_transforms_are_applied_before_the_tiles_own(images, write):
    specs = specs_of(images)
    for one in specs:
        one["transforms"]["specList"].insert(0, {"type": "ref", "refId": LENS})
    shared = {
        "id": LENS,
        "type": "leaf",
        "className": f"{MPICBG}.NonLinearCoordinateTransform",
        "dataString": lens()[0],
        "metaData": {"labels": ["lens"]},
    }
    by_ref = [shared, {"id": "alias", "type": "ref", "refId": LENS}]
    tiles, transforms = write(specs), write(by_ref, "transforms.json")
    for inputs in (
        [tiles, transforms],
        [transforms, tiles],
        [write({"tileSpecs": specs, "transformIdToSpecMap": {LENS: shared}}, "all.json")],
    ):
        montage = read_montage(inputs)
        np.testing.assert_allclose(
            montage.nominal - montage.nominal[0], TILES.places - TILES.places[0], atol=1e-6
        )
        assert "bend tiles by up to" in montage.notes["transforms"]
    with pytest.raises(MontageFileError, match=f"transform '{LENS}' is not in the files"):
        read_montage([tiles])


# What cannot be read


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tileId": None}, "tile 1: tileId: Input should be a valid string"),
        ({"z": math.nan}, "z: Input should be a finite number, found nan"),
        ({"mipmapLevels": {}}, "it names no image of full size"),
        ({"mipmapLevels": {"1": {"imageUrl": "a.tif"}}}, "it names no image of full size"),
        ({"mipmapLevels": {"0": {"imageUrl": "http://x.org/a.tif"}}}, "is at a server; copy"),
        ({"mipmapLevels": {"0": {"imageUrl": "s3://x/a.tif"}}}, "is at a server; copy"),
        (
            {"mipmapLevels": {"0": {"imageUrl": "a.n5", "imageLoaderType": "N5_SLICE"}}},
            "is for the loader N5_SLICE; expected an image file",
        ),
        ({"mipmapLevels": {"0": {"imageUrl": "none.tif"}}}, "1 of 11 image files are missing"),
        ({"mipmapLevels": {"0": 5}}, "mipmapLevels.0: Input should be a valid dictionary"),
        ({"width": 99.0}, "has 24 × 99 px; its image has 24 × 32"),
        ({"layout": {"imageRow": 1.5}}, "layout.imageRow: .*found 1.5"),
        (
            {"transforms": {"type": "interpolated", "a": {}, "b": {}, "lambda": 0.5}},
            "an interpolated transform cannot be evaluated",
        ),
        (
            {"transforms": {"className": f"{MPICBG}.ThinPlateSplineTransform", "dataString": "x"}},
            "ThinPlateSplineTransform cannot be evaluated; expected one of AffineModel2D",
        ),
        (
            {"transforms": {"className": f"{MPICBG}.AffineModel2D", "dataString": "1 0 0 1 0"}},
            "AffineModel2D holds 5 numbers; expected 6: m00 m10 m01 m11 m02 m12",
        ),
        (
            {"transforms": {"className": f"{MPICBG}.AffineModel2D", "dataString": "1 0 0 1 0 x"}},
            "AffineModel2D: could not convert string to float: 'x'",
        ),
        (
            {"transforms": {"className": f"{MPICBG}.AffineModel2D", "dataString": "1 0 0 1 0 NaN"}},
            "AffineModel2D holds a number that is not finite",
        ),
        (
            {
                "transforms": {
                    "className": f"{MPICBG}.AffineModel2D",
                    "dataString": "9e9 0 0 9e9 0 0",
                }
            },
            "the transforms lead beyond all places",
        ),
        ({"transforms": {"type": "ref", "refId": "7"}}, "transform '7' is not in the files"),
        ({"transforms": {"type": "other"}}, "transforms.type: Input should be 'leaf'"),
    ],
)
def test_what_is_wrong_in_a_tile_is_told_in_one_line(images, write, changed, message):
    specs = specs_of(images)
    specs[1] |= changed
    path = write(specs)
    with pytest.raises(FormatError, match=message) as refused:
        read_montage([path])
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tileIdToSpecMap": {}}, "holds no tile; tile specs are a list"),
        ({"tileSpecs": 5}, "found 5, where a list was expected"),
        ({"tileSpecs": [5]}, "tile 0: .*valid dictionary"),
        (
            {
                "tileSpecs": [],
                "tileIdToSpecMap": {"a": spec(0, "a.tif", {"type": "ref", "refId": "1"})},
                "transformIdToSpecMap": {"1": {"type": "ref", "refId": "1"}},
            },
            "image files are missing",
        ),
        ('[{"tileId": "a", "mipmapLevels": {}', "is not JSON"),
    ],
)
def test_files_of_another_form_are_refused(write, content, message):
    with pytest.raises(MontageFileError, match=message):
        read_montage([write(content)])


def test_a_transform_that_refers_to_itself_is_refused(images, write):
    specs = [spec(n, p.as_uri(), {"type": "ref", "refId": "1"}) for n, p in enumerate(images)]
    loop = {"1": {"type": "ref", "refId": "2"}, "2": {"type": "ref", "refId": "1"}}
    with pytest.raises(MontageFileError, match="transform '1' refers to itself"):
        read_montage([write({"tileSpecs": specs, "transformIdToSpecMap": loop})])


def test_a_file_that_is_cut_short_is_refused(write):
    path = write([], "tiles.json.gz")
    path.write_bytes(gzip.compress(b'[{"tileId": "a"}]' * 50)[:-9])
    with pytest.raises(MontageFileError, match="cannot be unpacked"):
        read_montage([path])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(["tileId", "z", "width", "layout", "mipmapLevels", "transforms", "height"])


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(FIELDS, JSON, min_size=1, max_size=3))
def test_whatever_a_tile_holds_it_is_read_or_refused(tmp_path_factory, changed):
    folder = tmp_path_factory.mktemp("any")
    tifffile.imwrite(folder / "a.tif", TILES.images[0])
    path = folder / "tiles.json"
    path.write_text(json.dumps([spec(0, "a.tif"), spec(1, "a.tif") | changed]))
    read_or_refuse([path])


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["AffineModel2D", "PolynomialTransform2D", "NonLinearCoordinateTransform"]),
    st.lists(st.floats() | st.integers(-3, 40), max_size=20),
)
def test_whatever_a_data_string_holds_it_is_evaluated_or_refused(name, numbers):
    try:
        found, misfit = fit_affine(
            make_transform(name, " ".join(map(str, numbers))), (HEIGHT, WIDTH), 5
        )
    except TransformError:
        return
    assert np.isfinite(found).all()
    assert math.isfinite(misfit)


# Written


def placed(images, names=None):
    linear = (1.0, 0.001, -0.001, 1.0)
    names = names or [f"t{number}" for number in range(len(images))]
    tiles = tuple(
        PlacedTile(
            name,
            row,
            column,
            x,
            y,
            0.1,
            0.1,
            0.2,
            "match",
            0,
            math.nan,
            math.nan,
            image,
            (*linear, x, y),
        )
        for name, image, (row, column), (y, x) in zip(
            names, images, TILES.cells, TILES.places.tolist(), strict=True
        )
    )
    return PlacedMontage("m", tiles, (HEIGHT, WIDTH), 4.0, 0.0)


def test_what_is_written_comes_back(images, tmp_path):
    path = tmp_path / "out.json"
    write_render(path, placed([ImageSource(image) for image in images]))
    montage = read_montage([path])
    np.testing.assert_allclose(montage.maps[:, :, 2], TILES.places, atol=1e-6)
    np.testing.assert_allclose(montage.maps[:, :, :2], [[[1, 0.001], [-0.001, 1]]] * 11)
    assert montage.images == tuple(ImageSource(image) for image in images)
    np.testing.assert_array_equal(montage.cells, TILES.cells)


def test_a_lens_is_written_as_a_polynomial_before_the_map_of_each_tile(images):
    """In pixels, as anyone evaluates it, it bends as in its own units; to a millionth of a px."""
    rng = np.random.default_rng(0)
    lens = np.zeros((2, 8, 8))
    for i, j in [(n - k, k) for n in range(2, 8) for k in range(n + 1)]:
        lens[:, i, j] = rng.normal(0, 3.0, 2)
    montage = replace(placed([ImageSource(image) for image in images]), lens=lens)
    spec = tile_specs(montage)[3]
    first, second = spec["transforms"]["specList"]
    assert first["className"].endswith("PolynomialTransform2D")
    assert second["className"].endswith("AffineModel2D")
    xy = rng.uniform((0, 0), (WIDTH - 1, HEIGHT - 1), (50, 2))
    v, u = (xy[:, ::-1] - (np.array([HEIGHT, WIDTH]) - 1) / 2).T / np.array([[HEIGHT], [WIDTH]]) * 2
    bent = np.stack([np.polynomial.polynomial.polyval2d(v, u, one) for one in lens], -1)
    told = make_transform(first["className"], first["dataString"])(xy)
    np.testing.assert_allclose(told, xy + bent[:, ::-1], atol=1e-6)


def test_images_in_stacks_come_back(tmp_path):
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.array(TILES.images), imagej=True)
    path = tmp_path / "out.json"
    write_render(path, placed([ImageSource(stack, page) for page in range(11)]))
    assert [one.page for one in read_montage([path]).images] == list(range(11))


def test_names_that_are_the_same_stay_apart():
    names = ["tile_0"] * 2 + [f"t{number}" for number in range(9)]
    specs = tile_specs(placed([ImageSource(Path("/a.tif"))] * 11, names))
    assert [one["tileId"] for one in specs[:3]] == ["tile_0", "tile_0 (2)", "t0"]
