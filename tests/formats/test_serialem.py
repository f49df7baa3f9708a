"""Montages of SerialEM: stacks and single images, autodocs, piece lists, and headers."""

from __future__ import annotations

import gzip
import math

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.autodoc import parse_autodoc, read_autodoc
from formats.errors import FormatError
from formats.montage import ImageSource, MontageFileError, PlacedMontage, PlacedTile
from formats.options import ReadOptions
from formats.readers import read_montage
from formats.serialem import read_serialem, write_autodoc
from tests.formats.mdoc import global_data, mdoc, mont_section, piece, section
from tests.formats.tiles import (
    HEIGHT,
    RIGHT,
    WIDTH,
    Tiles,
    matches,
    read_or_refuse,
    write_stack,
)

TILES = Tiles()
SNAKE = [0, 4, 7, 8, 5, 1, 2, 9, 10, 6, 3]  # along columns, to and fro, as stages go


@pytest.fixture
def stack(tmp_path):
    """A stack with the tiles' images as SerialEM takes them; gives its path."""
    return write_stack(tmp_path / "gm.mrc", [TILES.images[number] for number in SNAKE])


def write_mdoc(stack, text, **kept):
    path = stack.with_name(stack.name + ".mdoc")
    path.write_text(text, **({"newline": "\n"} | kept))
    return path


@pytest.mark.parametrize("given_as", ["mdoc", "stack", "both", "folder"])
def test_a_stack_with_an_mdoc_is_read(stack, given_as):
    doc = write_mdoc(stack, mdoc(TILES, SNAKE))
    inputs = {"mdoc": [doc], "stack": [stack], "both": [stack, doc], "folder": [stack.parent]}
    montage = read_montage(inputs[given_as])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells, np.array(TILES.cells)[SNAKE])
    assert montage.pixel_size == pytest.approx(4.0)
    assert montage.shape == (HEIGHT, WIDTH)
    assert montage.names[4] == "gm_0004"
    assert [source.page for source in montage.images] == list(range(11))
    assert montage.maps is None


def test_the_stage_is_told_and_how_the_image_lies_on_it(stack):
    montage = read_montage([write_mdoc(stack, mdoc(TILES, SNAKE))])
    # A px to the right, and one down, as `mdoc` moves the stage.
    np.testing.assert_allclose(montage.to_stage @ [0, 1], [0.0040, 0.0003], atol=2e-6)
    np.testing.assert_allclose(montage.to_stage @ [1, 0], [0.0003, -0.0040], atol=2e-6)
    assert montage.angle == pytest.approx(math.degrees(math.atan2(3, 40)), abs=0.05)


def test_a_montage_by_image_shift_tells_no_way_to_the_stage(stack):
    text = mdoc(TILES, SNAKE, changed=lambda _: {"StagePosition": "1.5 -2.5"})
    montage = read_montage([write_mdoc(stack, text)])
    assert (montage.stage == [1.5, -2.5]).all()
    assert np.isnan(montage.to_stage).all()
    assert math.isnan(montage.angle)


@pytest.mark.parametrize("key", ["AlignedPieceCoords", "AlignedPieceCoordsVS"])
def test_what_serialem_aligned_is_kept_as_maps(stack, key):
    def aligned(number):
        x, y, z = piece(TILES.cells[number], TILES.rows)
        if number == 3:  # never solved, as pieces without an edge are
            return {key: f"-2000000000 -2000000000 {z}"}
        return {key: f"{x + 2} {y - 3} {z}", "XedgeDxyVS": "9.19 -228.9 0.016"}

    montage = read_montage([write_mdoc(stack, mdoc(TILES, SNAKE, changed=aligned))])
    assert matches(montage, TILES)
    moved = montage.maps[:, :, 2] - montage.nominal
    expected = np.tile([3.0, 2.0], (11, 1))  # 3 px down, 2 to the right
    expected[SNAKE.index(3)] = 0
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(montage.maps[:, :, :2], np.tile(np.eye(2), (11, 1, 1)))


def test_several_montages_in_a_file_are_told_apart(tmp_path):
    second = [image[::-1] for image in TILES.images]
    stack = write_stack(tmp_path / "two.st", [*TILES.images, *second])
    text = global_data(ImageFile="two.st")
    for page in range(22):
        z, number = divmod(page, 11)
        label = {"NavigatorLabel": f"{z + 1}"}
        text += section(f"ZValue = {page}", TILES.cells[number], TILES.rows, z, **label)
    text += mont_section(TILES.cells[-1], TILES.rows) + mont_section(TILES.cells[-1], TILES.rows, 1)
    doc = write_mdoc(stack, text)
    with pytest.raises(MontageFileError) as refused:
        read_montage([doc])
    assert "holds 2 montages, the sections 0 (1), 1 (2); choose one" in str(refused.value)
    assert matches(read_montage([doc], ReadOptions(section="0")), TILES)
    for chosen in ("1", "2"):  # z comes before the label
        montage = read_montage([doc], ReadOptions(section=chosen))
        assert [source.page for source in montage.images] == list(range(11, 22))
    with pytest.raises(MontageFileError, match="choose one of these"):
        read_montage([doc], ReadOptions(section="7"))


def test_a_section_that_is_written_again_and_a_piece_taken_again_take_the_last(tmp_path):
    images = [*TILES.images, 255 - TILES.images[0]]
    stack = write_stack(tmp_path / "gm.mrc", images)
    text = mdoc(TILES, range(11))
    wrong = section("ZValue = 5", (0, 0), TILES.rows, PieceCoordinates="900 900 0")
    again = section("ZValue = 11", TILES.cells[0], TILES.rows)
    montage = read_montage([write_mdoc(stack, wrong + text + again)])
    assert montage.notes["taken again"] == "1 pieces; the last of each counts"
    cells = {
        one.page: tuple(cell)
        for one, cell in zip(montage.images, montage.cells.tolist(), strict=True)
    }
    assert cells == {**dict(list(enumerate(TILES.cells))[1:]), 11: TILES.cells[0]}


def test_a_series_of_single_images_with_an_idoc_is_read(tmp_path):
    names = [f"mont{number:04d}.tif" for number in range(11)]
    text = global_data(ImageFile=None, ImageSeries=1)
    for page, number in enumerate(SNAKE):
        tifffile.imwrite(tmp_path / names[page], TILES.images[number])
        text += section(f"Image = {names[page]}", TILES.cells[number], TILES.rows)
    doc = tmp_path / "mont.idoc"
    doc.write_text(text + mont_section(TILES.cells[-1], TILES.rows))
    for inputs in ([doc], [tmp_path]):
        montage = read_montage(inputs)
        assert matches(montage, TILES)
        assert montage.names[2] == "mont0002.tif"
        assert montage.images[2].page is None


def test_an_image_a_tile_with_an_mdoc_each_is_read(tmp_path):
    for number, cell in enumerate(TILES.cells):
        image = write_stack(tmp_path / f"piece{number}.mrc", [TILES.images[number]])
        text = global_data(ImageFile=image.name) + section("ZValue = 0", cell, TILES.rows)
        write_mdoc(image, text)
    assert matches(read_montage([tmp_path]), TILES)


def test_where_only_the_frames_are_left_they_are_the_images(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()

    def frames(number):
        tifffile.imwrite(folder / f"f{number}.tif", TILES.images[number])
        return {"SubFramePath": rf"X:\DoseFractions\frames\f{number}.tif", "NumSubFrames": 1}

    doc = tmp_path / "gm.mrc.mdoc"
    doc.write_text(mdoc(TILES, SNAKE, changed=frames))
    assert matches(read_montage([doc]), TILES)


def test_parts_of_a_supermontage_are_one(tmp_path):
    left = [number for number, (_, column) in enumerate(TILES.cells) if column < 2]
    right = [number for number, (_, column) in enumerate(TILES.cells) if column >= 2]
    docs = []
    for name, numbers, first in (("a", left, 0), ("b", right, 2)):
        stack = write_stack(tmp_path / f"{name}.mrc", [TILES.images[n] for n in numbers])
        text = global_data(ImageFile=stack.name)
        for page, number in enumerate(numbers):
            row, column = TILES.cells[number]
            place = {"SuperMontCoords": f"{first * RIGHT} 0"}
            text += section(f"ZValue = {page}", (row, column - first), TILES.rows, **place)
        docs.append(write_mdoc(stack, text))
    assert matches(read_montage(docs), TILES)


def test_two_montages_are_not_one(tmp_path):
    docs = []
    for name in ("a", "b"):
        stack = write_stack(tmp_path / f"{name}.mrc", TILES.images)
        docs.append(write_mdoc(stack, mdoc(TILES, range(11), ImageFile=stack.name)))
    with pytest.raises(MontageFileError, match="both tell of a piece at 0 40; they are two"):
        read_montage(docs)


def test_a_piece_list_goes_with_a_stack(tmp_path):
    stack = write_stack(tmp_path / "gm.st", TILES.images)
    listed = tmp_path / "gm.pl"
    pieces = [piece(cell, TILES.rows) for cell in TILES.cells]
    rows = [f"{x:9d} {y:9d} {z:6d}" for x, y, z in pieces]
    listed.write_text("\r\n".join([*rows, ""]))
    for inputs in ([stack], [stack, listed]):
        assert matches(read_montage(inputs), TILES)
    listed.write_text("1 2\n")
    with pytest.raises(MontageFileError, match="line 1: found '1 2', expected x, y and z"):
        read_montage([stack])
    listed.write_text("\n".join([*rows, "0 900 0"]))
    with pytest.raises(MontageFileError, match="image 11 of .*gm.st, which holds 11"):
        read_montage([stack])


def with_header(path, flags, items):
    """Write what SerialEM puts into a stack's extended header: `items` shorts an image."""
    content = np.array(items, "<i2")
    with mrcfile.open(path, "r+") as file:
        file.header.exttyp = b"SERI"
        file.set_extended_header(np.frombuffer(content.tobytes(), "V1"))
        extra = bytearray(bytes(file.header.extra2))
        extra[16:20] = np.array([content.shape[1] * 2, flags], "<i2").tobytes()
        file.header.extra2 = bytes(extra)


def test_piece_coordinates_in_the_header_are_enough(tmp_path):
    stack = write_stack(tmp_path / "gm.st", TILES.images)
    items = []
    for cell in TILES.cells:
        x, y, z = piece(cell, TILES.rows)
        items.append([-10, x, y, z, 25 * cell[1], -25 * cell[0]])
    with_header(stack, 1 | 2 | 4, items)  # tilt, pieces, stage
    montage = read_montage([stack])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.stage, [(col, -row) for row, col in TILES.cells])


def test_pieces_beyond_32767_px_are_read(tmp_path):
    stack = write_stack(tmp_path / "gm.st", TILES.images[:2])
    with_header(stack, 2, np.array([[0, 0, 0], [60000, 0, 0]], np.uint16).view(np.int16))
    montage = read_montage([stack])
    np.testing.assert_array_equal(montage.nominal, [[0, 0], [0, 60000]])


def test_autodocs_are_read_whatever_their_lines_look_like(stack):
    text = mdoc(TILES, SNAKE)
    lines = [line for line in text.splitlines() if line.strip()]
    odd = "\r\n \r\n".join(
        [
            "# a comment = 5",
            *(f"  {line.replace(' = ', '=')}\t" for line in lines),
            "[MultiShot = 7]",
            "MultishotHoleAndPosition = 1 2 0",
            "a line without sense",
            "= 5",
        ]
    )
    doc = write_mdoc(stack, "")
    doc.write_bytes(b"\xef\xbb\xbf" + odd.encode())
    assert matches(read_montage([doc]), TILES)
    doc.write_bytes(f"Operator = Müller, 4 µm\n{text}".encode("latin-1"))
    assert read_autodoc(doc).values["Operator"] == "Müller, 4 µm"
    assert matches(read_montage([doc]), TILES)
    # In any order: MontSection first, keys reversed.
    parts = parse_autodoc(text)
    shuffled = "".join(
        f"[{one.kind} = {one.name}]\n"
        + "".join(f"{key} = {value}\n" for key, value in reversed(one.values.items()))
        for one in reversed(parts.sections)
    )
    doc.write_text(shuffled)
    assert matches(read_montage([doc]), TILES)


def broken(number, **changed):
    return mdoc(TILES, SNAKE, changed=lambda one: changed if one == number else {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tells no PieceCoordinates in 0 sections"),
        (
            mdoc(TILES, SNAKE, changed=lambda _: {"PieceCoordinates": None}),
            "tells no PieceCoordinates in 11 sections of images",
        ),
        (broken(4, PieceCoordinates="0 a 0"), r"\[ZValue = 1\]: PieceCoordinates.1:.*found 'a'"),
        (broken(4, PieceCoordinates="0 1"), r"\[ZValue = 1\]: PieceCoordinates.2: Field required"),
        (broken(4, PieceCoordinates="0 inf 0"), r"\[ZValue = 1\]: .*found 'inf'"),
        (broken(4, StagePosition="nan 0"), r"\[ZValue = 1\]: StagePosition.0: .*found 'nan'"),
        (broken(4, PixelSpacing="-3"), r"\[ZValue = 1\]: PixelSpacing: .*greater than 0"),
        (mdoc(TILES, [*SNAKE, 0]), "image 11 of .*gm.mrc, which holds 11"),
        (
            global_data() + section("ZValue = one", (0, 0), 3),
            r"\[ZValue = one\]: expected the number of an image in gm.mrc",
        ),
    ],
)
def test_what_is_wrong_in_an_mdoc_is_told_in_one_line(stack, text, message):
    doc = write_mdoc(stack, text)
    with pytest.raises(FormatError, match=message) as refused:
        read_serialem([doc], ReadOptions())
    assert str(refused.value).startswith(str(doc))
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_told_in_one_line(stack, tmp_path):
    doc = write_mdoc(stack, mdoc(TILES, SNAKE))
    alone = stack.rename(tmp_path / "other.mrc")
    with pytest.raises(MontageFileError, match="expected its stack, gm.mrc"):
        read_montage([doc])
    with pytest.raises(MontageFileError, match="neither other.mrc.mdoc nor other.pl lies beside"):
        read_montage([alone])
    with pytest.raises(MontageFileError, match="is no text; expected an autodoc"):
        read_montage([write_mdoc(stack, "\0")])
    (listed := tmp_path / "a.pl").write_text("0 0 0")
    for inputs in ([doc, alone, listed], [doc, listed], [listed]):
        with pytest.raises(MontageFileError, match="expected one stack with its .mdoc or .pl, or"):
            read_montage(inputs)


def test_a_renamed_stack_is_found_by_the_name_in_the_mdoc(stack):
    doc = write_mdoc(stack, mdoc(TILES, SNAKE)).rename(stack.with_name("copied.mdoc"))
    assert matches(read_montage([doc]), TILES)


@settings(deadline=None, max_examples=150)
@given(
    st.text(
        alphabet=st.sampled_from("[]=ZValueImagPieceCoordinats 0123-.eE+\n\r\t#é"), max_size=120
    )
)
def test_any_text_is_an_autodoc(text):
    for one in parse_autodoc(text).sections:
        assert "\n" not in one.name + one.kind


KEYS = st.sampled_from(
    ["PieceCoordinates", "AlignedPieceCoords", "SuperMontCoords", "StagePosition", "PixelSpacing"]
)
VALUES = st.one_of(
    st.lists(st.integers(-9, 999), max_size=4).map(lambda v: " ".join(map(str, v))),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\r\n"), max_size=8),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 12), KEYS, VALUES), max_size=12))
def test_whatever_values_an_mdoc_holds_it_is_read_or_refused(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("any")
    write_stack(folder / "gm.mrc", TILES.images)
    text = mdoc(TILES, range(11))
    for page, key, value in values:
        text += f"[ZValue = {page}]\nPieceCoordinates = {page * 26} 0 0\n{key} = {value}\n"
    doc = folder / "gm.mrc.mdoc"
    doc.write_text(text)
    montage = read_or_refuse([doc])
    assert montage is None or np.isfinite(montage.nominal).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1100), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_read_or_refused(tmp_path_factory, at, content):
    path = write_stack(tmp_path_factory.mktemp("any") / "gm.st", TILES.images)
    with_header(path, 2, [piece(cell, TILES.rows) for cell in TILES.cells])
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    montage = read_or_refuse([path])
    assert montage is None or len(montage.names) <= 11


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.sampled_from("0123456789-. eénan"), max_size=12), max_size=12))
def test_whatever_a_piece_list_holds_it_is_read_or_refused(tmp_path_factory, lines):
    path = write_stack(tmp_path_factory.mktemp("any") / "gm.st", TILES.images)
    path.with_suffix(".pl").write_text("\n".join(lines), "latin-1")
    montage = read_or_refuse([path])
    assert montage is None or np.isfinite(montage.nominal).all()


def test_a_compressed_stack_goes_with_its_mdoc(stack):
    write_mdoc(stack, mdoc(TILES, SNAKE))
    packed = stack.with_name("gm.mrc.gz")
    packed.write_bytes(gzip.compress(stack.read_bytes()))
    packed.with_name("gm.mrc.gz.mdoc").write_text(mdoc(TILES, SNAKE))
    assert matches(read_montage([packed]), TILES)


# Written


def placed(images, places, stage=math.nan):
    tiles = tuple(
        PlacedTile(f"t{number}", row, column, x, y, 0.1, 0.1, 0.2, "match", 0, stage, stage, image)
        for number, (image, (row, column), (y, x)) in enumerate(
            zip(images, TILES.cells, places, strict=True)
        )
    )
    return PlacedMontage("m", tiles, (HEIGHT, WIDTH), 4.0, 0.0)


@pytest.mark.parametrize("in_stack", [True, False])
def test_what_is_written_comes_back(tmp_path, in_stack):
    places = TILES.places + np.random.default_rng(4).integers(-3, 4, TILES.places.shape)
    if in_stack:
        stack = write_stack(tmp_path / "gm.mrc", TILES.images)
        images = [ImageSource(stack, page) for page in range(11)]
        path = tmp_path / "gm.mrc.mdoc"
    else:
        images = [ImageSource(tmp_path / f"i{number}.tif") for number in range(11)]
        for source, image in zip(images, TILES.images, strict=True):
            tifffile.imwrite(source.path, image)
        path = tmp_path / "i.idoc"
    write_autodoc(path, placed(images, places.tolist(), stage=1.5))
    montage = read_montage([path])
    found = montage.maps[:, :, 2]
    np.testing.assert_array_equal(found - found[0], places - places[0])
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    # The grid is regular, and near: SerialEM and IMOD need that.
    steps = np.unique(np.diff(np.unique(montage.nominal[:, 1])))
    assert len(steps) == 1
    assert np.abs(montage.nominal - found).max() < 10
    assert (montage.stage == 1.5).all()
    assert montage.pixel_size == pytest.approx(4.0)
    assert montage.images == tuple(images)


def test_what_serialem_cannot_hold_is_not_written(tmp_path):
    images = [ImageSource(tmp_path / f"i{number}.tif") for number in range(11)]
    for path, sources in (("a.mdoc", images), ("a.idoc", [None] * 11)):
        with pytest.raises(MontageFileError, match="an .mdoc is for tiles in one stack"):
            write_autodoc(tmp_path / path, placed(sources, TILES.places.tolist()))
    with pytest.raises(MontageFileError, match="cannot be written"):
        write_autodoc(tmp_path / "none" / "a.idoc", placed(images, TILES.places.tolist()))
