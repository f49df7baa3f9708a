"""TIFF files as programs write them: numbers, colours, pages, turns, and the size of a pixel."""

import struct

import numpy as np
import PIL.Image
import pytest
import tifffile

from formats.images import ImageFormatError, open_image, open_images
from tests.formats.images.pictures import WINDOW, picture, same


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"rowsperstrip": 7},
        {"tile": (16, 32)},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 5},
        {"compression": "zstd", "tile": (32, 16)},
        {"compression": "lzma"},
        {"compression": "packbits"},
        {"compression": "jpegxl"},
        {"compression": "png"},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "lzw", "predictor": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_compression_gives_the_numbers(tmp_path, how, dtype):
    expected = picture(top=255 if dtype == np.uint8 else 60_000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", expected, photometric="minisblack", **how)
    same(tmp_path / "a.tif", expected)


def test_jpeg_in_tiff_is_close(tmp_path):
    expected = picture(64, 96).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", expected, compression="jpeg", tile=(32, 32))
    read = open_image(tmp_path / "a.tif").read()
    assert np.abs(read.astype(int) - expected).mean() < 3
    colour = np.dstack([expected] * 3)
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb", compression="jpeg")
    read = open_image(tmp_path / "c.tif").read()
    assert np.abs(read.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_packed_bits(tmp_path, bits):
    """Cameras of 12 bits pack two pixels in three bytes."""
    expected = picture(top=2**bits - 1)
    kept = expected.astype(bool) if bits == 1 else expected
    dtype = kept.dtype if bits in (1, 10, 12, 14) else np.uint8
    tifffile.imwrite(
        tmp_path / "a.tif", kept.astype(dtype), bitspersample=bits, photometric="minisblack"
    )
    told = {1: 255 * kept.astype(np.uint8)}.get(bits, expected.astype(dtype))
    same(tmp_path / "a.tif", told)


def test_white_is_zero_comes_with_white_high(tmp_path):
    expected = picture().astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", 255 - expected, photometric="miniswhite")
    same(tmp_path / "a.tif", expected)
    deep = picture(top=4095)
    tifffile.imwrite(tmp_path / "b.tif", 4095 - deep, photometric="miniswhite", bitspersample=12)
    same(tmp_path / "b.tif", deep)
    # Fax has white as 0, and a bit a pixel.
    PIL.Image.fromarray(expected > 99).save(
        tmp_path / "c.tif", compression="group4", tiffinfo={262: 0}
    )
    same(tmp_path / "c.tif", np.where(expected > 99, 255, 0).astype(np.uint8))
    tifffile.imwrite(tmp_path / "d.tif", expected <= 99, photometric="miniswhite")
    same(tmp_path / "d.tif", np.where(expected > 99, 255, 0).astype(np.uint8))
    # What is transparent stays 0.
    alpha = np.where(expected > 99, 255, 0).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "e.tif",
        np.dstack([255 - expected, alpha]),
        photometric="miniswhite",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    same(tmp_path / "e.tif", np.where(alpha, expected, 0).astype(np.uint8))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("how", [{}, {"compression": "lzw", "rowsperstrip": 8}], ids=["raw", "lzw"])
def test_colour_becomes_grey_and_grey_stays_exact(tmp_path, planar, dtype, how):
    grey = picture(top=np.iinfo(dtype).max).astype(dtype)
    stored = np.stack([grey] * 3, axis=-1 if planar == "contig" else 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, **how)
    same(tmp_path / "a.tif", grey)
    red, green, blue = (picture(seed=k).astype(dtype) for k in range(3))
    stored = np.stack([red, green, blue], axis=-1 if planar == "contig" else 0)
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="rgb", planarconfig=planar, **how)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert np.abs(open_image(tmp_path / "b.tif").read() - luma).max() <= 1


def test_what_is_transparent_is_no_signal(tmp_path):
    grey = picture().astype(np.uint8)
    alpha = np.where(grey > 128, 255, 0).astype(np.uint8)
    stored = np.stack([grey, grey, grey, alpha], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["unassalpha"])
    same(tmp_path / "a.tif", np.where(alpha, grey, 0).astype(np.uint8))
    stored[..., 3] = 0  # an alpha channel that nobody filled
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="rgb", extrasamples=["unassalpha"])
    same(tmp_path / "b.tif", grey)


def test_a_palette_is_looked_through(tmp_path):
    """The numbers of a palette are names of colours; this one counts them backwards."""
    expected = picture().astype(np.uint8)
    ramp = np.arange(255, -1, -1, dtype=np.uint16)
    for name, colours in (("a", ramp * 257), ("b", ramp * 256)):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(
            path, 255 - expected, photometric="palette", colormap=np.stack([colours] * 3)
        )
        same(path, expected)
    deep = ramp * 256 + np.arange(256, dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "c.tif", 255 - expected, photometric="palette", colormap=np.stack([deep] * 3)
    )
    same(tmp_path / "c.tif", deep[255 - expected])
    PIL.Image.fromarray(expected).convert("P").save(tmp_path / "d.tif")
    same(tmp_path / "d.tif", expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("how", [{}, {"compression": "lzw", "tile": (16, 16)}], ids=["raw", "lzw"])
def test_orientation_is_undone(tmp_path, orientation, how):
    """Each is stored as its tag says, by numpy's own turns."""
    expected = picture().astype(np.uint8)
    stored = {
        1: expected,
        2: np.fliplr(expected),
        3: np.rot90(expected, 2),
        4: np.flipud(expected),
        5: expected.T,
        6: np.rot90(expected),  # to be turned clockwise by 90°
        7: np.rot90(expected, 2).T,
        8: np.rot90(expected, -1),
    }[orientation]
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=[tag], metadata=None, **how)
    same(tmp_path / "a.tif", expected)


def test_a_thumbnail_as_first_page_is_not_the_image(tmp_path):
    expected = picture(64, 96).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(expected[::8, ::8], subfiletype=1)
        file.write(expected)
    assert same(tmp_path / "a.tif", expected).count == 1


@pytest.mark.parametrize("subifds", [0, 2])
def test_the_levels_of_a_pyramid_are_one_image(tmp_path, subifds):
    """Levels lie in pages of their own, marked as reduced, or below the first in SubIFDs."""
    expected = picture(64, 96, top=60_000)
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
        file.write(expected, subifds=subifds, tile=(32, 32))
        for step in (2, 4):
            file.write(expected[::step, ::step], subfiletype=1, tile=(16, 16))
    assert same(tmp_path / "a.tif", expected).count == 1


def test_a_stack_wants_a_page(tmp_path):
    stack = np.stack([picture(seed=k) for k in range(5)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with pytest.raises(ImageFormatError, match=r"a\.tif holds 5 images; expected one: name one"):
        open_image(tmp_path / "a.tif")
    for page in (0, 3):
        image = open_image(tmp_path / "a.tif", page)
        assert (image.count, image.page) == (5, page)
        np.testing.assert_array_equal(image.read(), stack[page])
    for page in (5, -1):
        with pytest.raises(ImageFormatError, match=f"there is no image {page}"):
            open_image(tmp_path / "a.tif", page)
    for image, expected in zip(open_images(tmp_path / "a.tif"), stack, strict=True):
        np.testing.assert_array_equal(image.read(WINDOW), expected[WINDOW])


@pytest.mark.parametrize("how", [{"imagej": True}, {"ome": True}, {"metadata": None}], ids=str)
def test_hyperstacks(tmp_path, how):
    """Time, depth and channel: each plane is an image, in the order of the file."""
    stack = np.stack([picture(seed=k) for k in range(12)]).reshape(2, 3, 2, 37, 52)
    axes = {} if "metadata" in how else {"metadata": {"axes": "TZCYX"}}
    path = tmp_path / ("a.ome.tif" if "ome" in how else "a.tif")
    tifffile.imwrite(path, stack, photometric="minisblack", **how, **axes)
    images = open_images(path)
    assert len(images) == 12
    for image, expected in zip(images, stack.reshape(12, 37, 52), strict=True):
        np.testing.assert_array_equal(image.read(), expected)


def test_a_stack_of_one_page_as_imagej_and_tifffile_write_large_ones(tmp_path):
    """Beyond 4 GB they write one page, and all pixels behind it."""
    stack = np.stack([picture(seed=k) for k in range(4)])
    for name, how in (("a", {"imagej": True}), ("b", {})):
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            stack,
            photometric="minisblack",
            metadata={"axes": "ZYX"},
            **how,
        )
        content = bytearray((tmp_path / f"{name}.tif").read_bytes())
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as file:
            first = file.pages.first
            ends = first.offset + 2 + 12 * len(first.tags)
        content[ends : ends + 4] = bytes(4)  # there is no next page
        (tmp_path / f"{name}.tif").write_bytes(content)
        images = open_images(tmp_path / f"{name}.tif")
        assert len(images) == 4
        for image, expected in zip(images, stack, strict=True):
            np.testing.assert_array_equal(image.read(WINDOW), expected[WINDOW])


def test_samples_that_are_no_colours_are_images(tmp_path):
    stack = np.stack([picture(seed=k) for k in range(5)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(
        tmp_path / "b.tif",
        np.moveaxis(stack, 0, -1),
        photometric="minisblack",
        planarconfig="contig",
        compression="zlib",
    )
    for name in ("a.tif", "b.tif"):
        for image, expected in zip(open_images(tmp_path / name), stack, strict=True):
            np.testing.assert_array_equal(image.read(), expected)


def test_pages_that_lead_back_end(tmp_path):
    """In damaged files the last page names the first as the next."""
    tifffile.imwrite(tmp_path / "a.tif", picture(), metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first = file.pages.first
        ends = first.offset + 2 + 12 * len(first.tags)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[ends : ends + 4] = struct.pack("<I", first.offset)
    (tmp_path / "a.tif").write_bytes(content)
    same(tmp_path / "a.tif", picture())


def spied(method, objects):
    """Note the objects that a method is called on."""

    def call(self):
        method(self)
        objects.append(self)

    return call


def test_a_tile_of_an_ome_set_is_read_alone(tmp_path, monkeypatch):
    """OME-XML of one file may name others, as Micro-Manager's does; a tile is its own image."""
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="52" SizeY="37"'
        ' SizeZ="2" SizeC="1" SizeT="1" PhysicalSizeX="4.2" PhysicalSizeXUnit="nm"'
        ' PhysicalSizeY="4.2" PhysicalSizeYUnit="nm">'
        '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID>'
        '</TiffData><TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">'
        "urn:uuid:2</UUID></TiffData></Pixels></Image></OME>"
    )
    for k, name in enumerate("ab"):
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", picture(seed=k), description=xml, metadata=None
        )
    opened = []
    monkeypatch.setattr(tifffile.FileHandle, "open", spied(tifffile.FileHandle.open, opened))
    for k, name in enumerate("ab"):
        image = same(tmp_path / f"{name}.ome.tif", picture(seed=k))
        assert image.pixel_size == pytest.approx(4.2)
    assert [handle.name for handle in opened] == ["a.ome.tif", "b.ome.tif"]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # SerialEM and IMOD write pixels a centimetre.
        ({"resolution": (1e7 / 3.85, 1e7 / 3.85), "resolutionunit": "CENTIMETER"}, 3.85),
        ({"resolution": (25.4e6 / 4, 25.4e6 / 4), "resolutionunit": "INCH"}, 4.0),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (118.11, 118.11), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (9600, 9600), "resolutionunit": "INCH"}, None),
        ({"resolution": (1e7 / 4, 1e7 / 4), "resolutionunit": "NONE"}, None),
        ({"resolution": (1e7 / 4, 1e7 / 8), "resolutionunit": "CENTIMETER"}, None),
        ({"imagej": True, "resolution": (0.25, 0.25), "metadata": {"unit": "nm"}}, 4.0),
        ({"imagej": True, "resolution": (250, 250), "metadata": {"unit": "\\u00B5m"}}, 4.0),
        ({"imagej": True, "resolution": (250, 250), "metadata": {"unit": "micron"}}, 4.0),
        ({"imagej": True, "resolution": (1, 1), "metadata": {"unit": "pixel"}}, None),
        ({}, None),
        (
            {
                "extratags": [
                    (65003, "s", 0, "nm", True),
                    (65004, "s", 0, "nm", True),
                    (65009, "d", 1, 3.5, True),
                    (65010, "d", 1, 3.5, True),
                ]
            },
            3.5,
        ),
        (
            {
                "ome": True,
                "metadata": {
                    "PhysicalSizeX": 0.004,
                    "PhysicalSizeY": 0.004,
                    "PhysicalSizeXUnit": "µm",
                    "PhysicalSizeYUnit": "µm",
                },
            },
            4.0,
        ),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.004, "PhysicalSizeY": 0.004}}, 4.0),
        (
            {
                "ome": True,
                "metadata": {
                    "PhysicalSizeX": 40,
                    "PhysicalSizeXUnit": "Å",
                    "PhysicalSizeY": 40,
                    "PhysicalSizeYUnit": "Å",
                },
            },
            4.0,
        ),
        ({"ome": True}, None),
    ],
    ids=str,
)
def test_pixel_size(tmp_path, how, expected):
    tifffile.imwrite(tmp_path / "a.tif", picture(), **how)
    size = open_image(tmp_path / "a.tif").pixel_size
    assert size == (expected if expected is None else pytest.approx(expected, rel=1e-4))


def test_each_image_of_ome_xml_has_its_pixel_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for size in (2.0, 5.0):
            stack = np.stack([picture(), picture(seed=1)])
            file.write(
                stack,
                metadata={
                    "axes": "ZYX",
                    "PhysicalSizeX": size,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeY": size,
                    "PhysicalSizeYUnit": "nm",
                },
            )
    sizes = [image.pixel_size for image in open_images(tmp_path / "a.ome.tif")]
    assert sizes == [2.0, 2.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "description", ["<OME><Image><Pixels></OME>", '<OME><Image Pixels="7"/></OME>', "ImageJ=\nunit"]
)
def test_what_cannot_be_understood_beside_an_image_does_not_matter(tmp_path, description):
    tifffile.imwrite(tmp_path / "a.tif", picture(), description=description, metadata=None)
    assert same(tmp_path / "a.tif", picture()).pixel_size is None


def test_a_window_reads_only_the_strips_it_shows(tmp_path):
    """The others may as well be damaged."""
    expected = picture(64, 96)
    tifffile.imwrite(tmp_path / "a.tif", expected, compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offsets = file.pages.first.dataoffsets
    content = bytearray((tmp_path / "a.tif").read_bytes())
    for strip in (0, 1, 5, 6, 7):
        content[offsets[strip] : offsets[strip] + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.tif").write_bytes(content)
    image = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.read(np.s_[17:38, 3:90]), expected[17:38, 3:90])
    with pytest.raises(ImageFormatError, match=r"a\.tif cannot be decoded"):
        image.read()


def test_an_image_reads_only_the_samples_it_is_made_of(tmp_path):
    stack = np.stack([picture(seed=k) for k in range(3)])
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack,
        photometric="minisblack",
        planarconfig="separate",
        compression="zlib",
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offset = file.pages.first.dataoffsets[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[offset : offset + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif", 2).read(), stack[2])
    with pytest.raises(ImageFormatError, match="cannot be decoded"):
        open_image(tmp_path / "a.tif", 0).read()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_cut_short_is_refused_when_it_is_opened(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", picture(), compression=compression, rowsperstrip=5)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-50])
    with pytest.raises(ImageFormatError, match=r"a\.tif is cut short: its image ends at byte \d+"):
        open_image(tmp_path / "a.tif")


def test_a_file_that_tells_of_too_few_bytes_is_refused_when_it_is_opened(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture(), metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages.first.tags["StripByteCounts"].overwrite(100)
    with pytest.raises(ImageFormatError, match=r"a\.tif holds 100 of 3848 bytes"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("window", [np.s_[-5:, :9], np.s_[30:99, -3:], np.s_[4:4, 2:7]], ids=str)
def test_windows_are_counted_as_of_arrays(tmp_path, window):
    expected = picture()
    tifffile.imwrite(tmp_path / "a.tif", expected)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(window), expected[window])


def test_colours_that_no_microscope_makes_are_refused(tmp_path):
    PIL.Image.new("CMYK", (20, 10), (1, 2, 3, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ImageFormatError, match=r"colours that cannot be read \(SEPARATED\); save"):
        open_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((9, 9), np.complex64))
    with pytest.raises(ImageFormatError, match="pixels of a kind that cannot be read"):
        open_image(tmp_path / "b.tif")
