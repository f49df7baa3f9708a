"""OME-TIFF with positions: one file, a file a tile, sets with and without a companion, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.errors import FormatError
from formats.montage import MontageFileError, PlacedMontage, PlacedTile
from formats.ome_tiff import write_ome_tiff
from formats.options import ReadOptions
from formats.readers import read_montage
from tests.formats.tiles import DOWN, HEIGHT, RIGHT, WIDTH, Tiles, matches, read_or_refuse

TILES = Tiles()
NM = 4.0  # a px
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
PLACES = TILES.places.tolist()


def um(value):
    return value * NM / 1000


def image(number, data, *, unit="µm", place=None, size=NM / 1000, planes=1, inside=""):
    """Return the Image element of a tile, with what Bio-Formats writes; y upwards."""
    y, x = PLACES[number]
    x, y = place or (um(x) + 1200, 300 - um(y))
    units = f'PositionXUnit="{unit}" PositionYUnit="{unit}"' if unit else ""
    physical = "".join(f'PhysicalSize{axis}="{size}" ' for axis in "XY") if size else ""
    told = "".join(
        f'<Plane DeltaT="0.1" ExposureTime="0.2" PositionX="{x}" PositionY="{y}" '
        f'PositionZ="7.5" {units} TheC="{c}" TheT="0" TheZ="0"/>'
        for c in range(planes)
    )
    return (
        f'<Image ID="Image:{number}" Name="tile"><AcquisitionDate>2020-01-15T06:29:11'
        f'</AcquisitionDate><Description>made</Description>{inside}<Pixels BigEndian="false" '
        f'DimensionOrder="XYCZT" ID="Pixels:{number}" Interleaved="false" {physical}'
        f'SignificantBits="8" SizeC="{planes}" SizeT="1" SizeX="{WIDTH}" SizeY="{HEIGHT}" '
        f'SizeZ="1" Type="uint8"><Channel ID="Channel:{number}:0" SamplesPerPixel="1">'
        f"<LightPath/></Channel>{data}{told if place != () else ''}</Pixels></Image>"
    )


def tiff_data(ifd, file="", uuid="urn:uuid:1"):
    inside = f'<UUID FileName="{file}">{uuid}</UUID>' if file else ""
    return (
        f'<TiffData FirstC="0" FirstT="0" FirstZ="0" IFD="{ifd}" PlaneCount="1">{inside}</TiffData>'
    )


def ome(*images, uuid="urn:uuid:0", namespace=NAMESPACE):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{namespace}" Creator="made" '
        f'UUID="{uuid}">{"".join(images)}</OME>'
    )


def write(path, images, xml):
    with tifffile.TiffWriter(path) as file:
        for number, one in enumerate(images):
            description = xml.encode() if number == 0 else None
            file.write(one, description=description, metadata=None)
    return path


def one_file(path, **changed):
    xml = ome(*(image(number, tiff_data(number), **changed) for number in range(11)))
    return write(path, TILES.images, xml)


def test_a_file_with_an_image_a_tile_is_read(tmp_path):
    montage = read_montage([one_file(tmp_path / "all.ome.tif")])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    assert montage.pixel_size == pytest.approx(NM)
    assert [source.page for source in montage.images] == list(range(11))
    assert len(set(montage.names)) == 11
    np.testing.assert_allclose(montage.stage[0], [1200, 300])
    np.testing.assert_allclose(montage.to_stage, [[0, um(1)], [-um(1), 0]], atol=1e-9)
    assert montage.notes["y"] == "upwards; OME-TIFF does not say which"


def test_y_may_count_downwards(tmp_path):
    places = {n: (um(x), um(y)) for n, (y, x) in enumerate(PLACES)}
    xml = ome(*(image(n, tiff_data(n), place=places[n]) for n in range(11)))
    path = write(tmp_path / "all.ome.tif", TILES.images, xml)
    assert not matches(read_montage([path]), TILES)
    assert matches(read_montage([path], ReadOptions(y_up=False)), TILES)


@pytest.mark.parametrize(
    ("unit", "scale"), [("nm", 1e3), ("mm", 1e-3), ("m", 1e-6), ("pixel", 1000 / NM)]
)
def test_other_units_are_read(tmp_path, unit, scale):
    places = {n: (um(x) * scale, -um(y) * scale) for n, (y, x) in enumerate(PLACES)}
    xml = ome(*(image(n, tiff_data(n), unit=unit, place=places[n]) for n in range(11)))
    assert matches(read_montage([write(tmp_path / "a.tif", TILES.images, xml)]), TILES)


@pytest.mark.parametrize(
    ("unit", "scale"), [("reference frame", 1), ("", 1), ("reference frame", 1000 / NM)]
)
def test_positions_in_no_unit_are_those_by_which_tiles_are_neighbours(tmp_path, unit, scale):
    places = {n: (um(x) * scale, -um(y) * scale) for n, (y, x) in enumerate(PLACES)}
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2013-06"
    xml = ome(
        *(image(n, tiff_data(n), unit=unit, place=places[n]) for n in range(11)),
        namespace=namespace,
    )
    montage = read_montage([write(tmp_path / "a.tif", TILES.images, xml)])
    assert matches(montage, TILES)
    assert montage.notes["positions"] == f"in {'µm' if scale == 1 else 'px'}"


def test_positions_in_no_unit_that_makes_sense_ask_for_one(tmp_path):
    places = {n: (x * 1e5, -y * 1e5) for n, (y, x) in enumerate(PLACES)}
    xml = ome(*(image(n, tiff_data(n), unit="reference frame", place=places[n]) for n in range(11)))
    path = write(tmp_path / "a.tif", TILES.images, xml)
    with pytest.raises(MontageFileError, match="positions in no unit, .* give the unit"):
        read_montage([path])
    options = ReadOptions(unit="nm", pixel_size=1e5)
    assert matches(read_montage([path], options), TILES)


def test_a_file_a_tile_is_read_by_its_positions(tmp_path):
    # A name for each that tells another grid.
    for number, one in enumerate(TILES.images):
        xml = ome(image(number, tiff_data(0)))
        write(tmp_path / f"img_1-Pos{number % 3:03d}_{number // 3:03d}.ome.tif", [one], xml)
    assert matches(read_montage([tmp_path]), TILES)
    assert matches(read_montage(sorted(tmp_path.glob("*.tif"))), TILES)


def test_files_whose_positions_are_all_the_same_are_read_by_their_names(tmp_path):
    for (row, column), one in zip(TILES.cells, TILES.images, strict=True):
        xml = ome(image(0, tiff_data(0), place=(0.0, 0.0)))
        write(tmp_path / f"r{row}_c{column}.ome.tif", [one], xml)
    montage = read_montage([tmp_path])
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    assert montage.notes["names"] == "r{row}_c{col}.ome.tif"


def files_of_set(folder, xml_of):
    for number, one in enumerate(TILES.images):
        write(folder / f"part {number}.ome.tif", [one], xml_of(number))


def all_of_set():
    return [image(n, tiff_data(0, f"part {n}.ome.tif", f"urn:uuid:part{n}")) for n in range(11)]


def test_a_set_whose_files_all_tell_of_all_is_read(tmp_path):
    files_of_set(tmp_path, lambda n: ome(*all_of_set(), uuid=f"urn:uuid:part{n}"))
    for inputs in ([tmp_path / "part 3.ome.tif"], [tmp_path], sorted(tmp_path.iterdir())):
        montage = read_montage(inputs)
        assert matches(montage, TILES)
        assert len(montage.names) == 11


def test_a_file_of_a_set_that_was_renamed_knows_itself(tmp_path):
    files_of_set(tmp_path, lambda n: ome(*all_of_set(), uuid=f"urn:uuid:part{n}"))
    renamed = (tmp_path / "part 3.ome.tif").rename(tmp_path / "other.tif")
    assert matches(read_montage([renamed]), TILES)


def test_a_companion_tells_of_a_set(tmp_path):
    companion = tmp_path / "set.companion.ome"
    companion.write_text(ome(*all_of_set()), "utf-8")
    pointer = (
        f'<OME xmlns="{NAMESPACE}" UUID="urn:uuid:p"><BinaryOnly MetadataFile="{companion.name}" '
        'UUID="urn:uuid:0"/></OME>'
    )
    files_of_set(tmp_path, lambda _: pointer)
    for inputs in ([companion], [tmp_path / "part 3.ome.tif"]):
        assert matches(read_montage(inputs), TILES)
    companion.unlink()
    with pytest.raises(MontageFileError, match="set.companion.ome, which is missing"):
        read_montage([tmp_path / "part 3.ome.tif"])


def test_a_stage_label_does_for_a_position(tmp_path):
    def labelled(number):
        y, x = PLACES[number]
        label = f'<StageLabel Name="P" X="{um(x)}" XUnit="µm" Y="{-um(y)}" YUnit="µm"/>'
        return image(number, tiff_data(number), place=(), inside=label)

    path = write(tmp_path / "a.tif", TILES.images, ome(*map(labelled, range(11))))
    assert matches(read_montage([path]), TILES)


def test_of_several_planes_the_first_is_taken(tmp_path):
    pages = [page for one in TILES.images for page in (one, 255 - one)]
    xml = ome(*(image(n, "", planes=2) for n in range(11)))
    montage = read_montage([write(tmp_path / "a.tif", pages, xml)])
    assert matches(montage, TILES)
    assert montage.notes["planes"] == "the first of 2 of a tile"


def placed(names=None):
    names = names or [f"tile {number}" for number in range(11)]
    tiles = tuple(
        PlacedTile(name, row, column, x, y, 0.1, 0.1, 0.2, "match", 0, math.nan, math.nan)
        for name, (row, column), (y, x) in zip(names, TILES.cells, PLACES, strict=True)
    )
    return PlacedMontage("m", tiles, (HEIGHT, WIDTH), NM, 0.0)


def test_what_is_written_comes_back(tmp_path):
    montage = read_montage([write_ome_tiff(tmp_path, placed(), TILES.images)])
    assert matches(montage, TILES)
    np.testing.assert_array_equal(montage.cells, TILES.cells)
    assert montage.pixel_size == pytest.approx(NM)
    assert montage.names == tuple(f"tile {number}" for number in range(11))


def test_names_that_are_the_same_stay_apart(tmp_path):
    montage = placed(["tile_0"] * 2 + [f"t{number}" for number in range(9)])
    names = read_montage([write_ome_tiff(tmp_path, montage, TILES.images)]).names
    assert names[:3] == ("tile_0", "tile_0 (2)", "t0")


def changed_in(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


NM_UNITS = [f'PositionXUnit="{unit}" PositionYUnit="{unit}"' for unit in ("µm", "nm")]
WHOLE = ome(*(image(number, tiff_data(number)) for number in range(11)))


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (changed_in(WHOLE, "</Pixels></Image>", "</Image>"), "holds XML that cannot be read"),
        (changed_in(WHOLE, "<OME", '<!DOCTYPE x [<!ENTITY a "b">]><OME'), "with a document type"),
        (changed_in(WHOLE, 'PositionX="1200.0"', 'PositionX="west"'), "'tile': PositionX: Input"),
        (changed_in(WHOLE, 'PositionX="1200.0"', 'PositionX="NaN"'), "finite number, found 'NaN'"),
        (changed_in(WHOLE, 'PositionX="1200.0"', ""), "'tile' tells no position; expected OME-XML"),
        (changed_in(WHOLE, 'IFD="10"', 'IFD="11"'), "image 11 of .*, which holds 11"),
        (changed_in(WHOLE, 'IFD="10"', 'IFD="-1"'), "IFD: Input should be greater than"),
        (changed_in(WHOLE, 'SizeC="1"', 'SizeC="many"'), "SizeC: Input should be a valid integer"),
        (changed_in(WHOLE, '"µm" PositionY', '"nm" PositionY'), "tells x in nm and y in µm"),
        (changed_in(WHOLE, NM_UNITS[0], NM_UNITS[1]), "tells positions in nm and µm"),
        (WHOLE.replace('Unit="µm"', 'Unit="ell"'), "the unit is 'ell'"),
        (WHOLE.replace("PhysicalSize", "Physical"), "tell the pixel size: give it, in nm"),
        (ome(), "one file, and no montage; expected a folder"),
    ],
)
def test_what_is_wrong_in_ome_xml_is_told_in_one_line(tmp_path, xml, message):
    path = write(tmp_path / "all.ome.tif", TILES.images, xml)
    with pytest.raises(FormatError, match=message) as refused:
        read_montage([path])
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, len(WHOLE) - 1),
    st.integers(0, 30),
    st.text(alphabet='<>/="& 9aP', max_size=4),
)
def test_whatever_ome_xml_holds_it_is_read_or_refused(tmp_path_factory, at, length, text):
    path = tmp_path_factory.mktemp("any") / "a.ome.tif"
    write(path, TILES.images, WHOLE[:at] + text + WHOLE[at + length :])
    montage = read_or_refuse([path])
    assert montage is None or montage.shape == (HEIGHT, WIDTH)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1500), st.binary(min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, at, content):
    path = one_file(tmp_path_factory.mktemp("any") / "a.ome.tif")
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    read_or_refuse([path])
    assert DOWN < HEIGHT
    assert RIGHT < WIDTH
