"""MRC files as mrcfile, IMOD, SerialEM and FEI's software write them."""

import bz2
import gzip

import mrcfile
import numpy as np
import pytest

from formats.images import ImageFormatError, Levels, open_image, open_images
from tests.formats.images.pictures import WINDOW, picture, same

IMOD_STAMP = b"IMOD"  # 1146047817 as bytes
STAMP, FLAGS = 152, 156  # where IMOD has them in the header
MODE, MX, CELL, DMIN, DMAX, EXTTYP, NVERSION, MAP, MACHST = 12, 28, 40, 76, 80, 104, 108, 208, 212


def write(path, rows, **changes):
    """Write rows, the top one first, as MRC has them: from the bottom; then change its header."""
    with mrcfile.new(path) as file:
        file.set_data(np.ascontiguousarray(rows[..., ::-1, :]))
        file.voxel_size = 35.0
    patch(path, **changes)
    return path


def patch(path, **changes):
    """Write numbers into the header, by the names above."""
    content = bytearray(path.read_bytes())
    for name, value in changes.items():
        where = globals()[name]
        coded = value if isinstance(value, bytes) else np.asarray(value, "<i4").tobytes()
        content[where : where + len(coded)] = coded
    path.write_bytes(content)


def by_imod(flags):
    return {"STAMP": IMOD_STAMP, "FLAGS": flags}


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float16])
def test_counts_stay_as_they_are_with_the_last_row_on_top(tmp_path, dtype):
    """Modes 1, 6, 2 and 12; IMOD and SerialEM show the first row at the bottom."""
    expected = picture(top=1000)
    image = same(write(tmp_path / "a.mrc", expected.astype(dtype)), expected)
    assert image.pixel_size == pytest.approx(3.5)
    assert image.count == 1


def test_bytes_are_signed_as_imod_says(tmp_path):
    expected = picture().astype(np.uint8)
    unsigned = expected.view(np.int8)  # mrcfile knows signed bytes only
    same(write(tmp_path / "a.mrc", unsigned, **by_imod(0)), expected)
    signed = (expected.astype(int) - 128).astype(np.int8)
    same(write(tmp_path / "b.mrc", signed, **by_imod(1)), expected)


@pytest.mark.parametrize(
    ("low", "high", "version", "signed"),
    [
        (-100, 90, 20140, True),
        (0, 250, 20140, False),
        (0, 250, 0, False),
        (-128, 200, 0, True),
        (-20, 250, 0, False),
        (0, 100, 20140, False),  # where both are possible, as IMOD
        (0, 0, 20140, True),  # no range told: the standard's, from 2014 on
        (0, 0, 0, False),
    ],
)
def test_bytes_without_imods_stamp_are_judged_by_their_range(tmp_path, low, high, version, signed):
    stored = picture().astype(np.uint8)
    ends = {name: np.float32(value).tobytes() for name, value in (("DMIN", low), ("DMAX", high))}
    path = write(tmp_path / "a.mrc", stored.view(np.int8), NVERSION=version, **ends)
    same(path, stored ^ 128 if signed else stored)


def test_negative_counts_are_raised_and_noise_about_zero_is_not(tmp_path):
    """SerialEM may store 16 bits less 32 768; a frame less its dark reference has noise about 0."""
    expected = picture(top=60_000)
    path = write(tmp_path / "a.mrc", (expected.astype(int) - 32768).astype(np.int16))
    assert same(path, expected).levels == Levels(-32768)
    noisy = picture(top=8000).astype(np.int16)
    noisy[:3] = np.random.default_rng(0).normal(0, 10, (3, 52)).astype(np.int16)
    same(write(tmp_path / "b.mrc", noisy), np.maximum(noisy, 0).astype(np.uint16))


def test_float_density_is_scaled(tmp_path):
    density = picture(top=1000) / np.float32(500) - 1
    image = open_image(write(tmp_path / "a.mrc", density))
    pixels = image.read()
    assert pixels.dtype == image.dtype == np.uint16
    assert (pixels.min(), pixels.max()) == (0, 65535)
    np.testing.assert_allclose(pixels / 65535 * 2 - 1, density, atol=2e-5)
    np.testing.assert_array_equal(image.read(WINDOW), pixels[WINDOW])


def test_four_bits(tmp_path):
    """Mode 101 of SerialEM's K2 frames, of an odd width, and IMOD's packing in mode 0."""
    for width in (52, 53):
        expected = picture(37, width, top=15).astype(np.uint8)
        even = np.pad(expected, ((0, 0), (0, width % 2)))
        packed = even[:, ::2] | even[:, 1::2] << 4
        path = write(tmp_path / f"{width}.mrc", packed.view(np.int8), MODE=101)
        patch(path, MX=(width, 37, 1))
        content = bytearray(path.read_bytes())
        content[:4] = np.int32(width).tobytes()
        path.write_bytes(content)
        same(path, expected)
    packed = expected[:, :52:2] | expected[:, 1:53:2] << 4
    path = write(tmp_path / "flag.mrc", packed.view(np.int8), **by_imod(16))
    image = same(path, expected[:, :52])
    assert image.pixel_size == pytest.approx(3.5)


def test_colour_of_imod(tmp_path):
    grey = picture().astype(np.uint8)
    flat = np.repeat(grey, 3, axis=1)
    path = write(tmp_path / "a.mrc", flat.view(np.int8), MODE=16)
    content = bytearray(path.read_bytes())
    content[:4] = np.int32(52).tobytes()
    path.write_bytes(content)
    same(path, grey)


@pytest.mark.parametrize("stamp", [b"\x11\x11\0\0", b"DD\0\0", b"\0\0\0\0"])
def test_bytes_in_the_other_order(tmp_path, stamp):
    """The numbers decide: machine stamps are often wrong."""
    expected = picture(top=9000)
    path = write(tmp_path / "a.mrc", expected)
    content = bytearray(path.read_bytes())
    for start, stop, size in ((0, 104, 4), (108, 112, 4), (196, 208, 4), (216, 224, 4)):
        words = np.frombuffer(content[start:stop], f"<i{size}")
        content[start:stop] = words.byteswap().tobytes()
    content[1024:] = np.frombuffer(content[1024:], "<u2").byteswap().tobytes()
    content[MACHST : MACHST + 4] = stamp
    path.write_bytes(content)
    assert same(path, expected).pixel_size == pytest.approx(3.5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_machine_stamp_decides_where_numbers_do_not(tmp_path, order):
    """256 is 65 536 in the other order, and without axes all else is possible in both."""
    rows = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
    header = bytearray(1024)
    header[:12] = np.array([256, 256, 1], f"{order}i4").tobytes()
    header[DMAX : DMAX + 4] = np.array(255, f"{order}f4").tobytes()
    header[MAP : MAP + 8] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    (tmp_path / "a.mrc").write_bytes(bytes(header) + rows.tobytes())
    same(tmp_path / "a.mrc", rows[::-1])


def test_old_files_have_no_mark(tmp_path):
    path = write(tmp_path / "a.mrc", picture(), MAP=bytes(4), MACHST=bytes(4), NVERSION=0)
    assert same(path, picture()).pixel_size == pytest.approx(3.5)


@pytest.mark.parametrize(
    "changes",
    [
        # FEI's first files with an extended header, and what IMOD takes for the same.
        {"EXTTYP": b"FEI1", "NVERSION": 20140},
        {"MAPR": -2},
    ],
    ids=str,
)
def test_first_files_of_fei_have_the_first_row_on_top(tmp_path, changes, monkeypatch):
    monkeypatch.setitem(globals(), "MAPR", 68)
    upright = picture()
    same(write(tmp_path / "a.mrc", upright[::-1], **changes), upright)
    same(write(tmp_path / "b.mrc", upright, **by_imod(0), **changes), upright)


def test_an_extended_header_is_passed_over(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(picture()[::-1])
        file.set_extended_header(np.arange(999, dtype=np.uint8))
    same(tmp_path / "a.mrc", picture())


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_sections(tmp_path, volume, suffix):
    """Those of a stack and of a volume alike, also compressed."""
    stack = np.stack([picture(seed=k) for k in range(5)])
    with mrcfile.new(tmp_path / "a.st") as file:
        file.set_data(stack[:, ::-1])
        if not volume:
            file.set_image_stack()
    content = (tmp_path / "a.st").read_bytes()
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix]
    path = tmp_path / f"b.st{suffix}"
    path.write_bytes(pack(content))
    with pytest.raises(ImageFormatError, match="holds 5 images; expected one"):
        open_image(path)
    for image, expected in zip(open_images(path), stack, strict=True):
        np.testing.assert_array_equal(image.read(), expected)
        np.testing.assert_array_equal(image.read(WINDOW), expected[WINDOW])


def test_all_sections_of_a_stack_have_the_same_levels(tmp_path):
    """The pieces of a montage are one picture: none is brighter for what it holds."""
    stack = np.stack([picture(seed=k) * np.float32(0.001 * (k + 1)) for k in range(3)])
    images = open_images(write(tmp_path / "a.mrc", stack))
    assert len({image.levels for image in images}) == 1
    scale = images[0].levels.scale
    for image, section in zip(images, stack, strict=True):
        np.testing.assert_allclose(image.read(), section * scale, atol=0.51)


@pytest.mark.parametrize(
    ("cell", "grid", "expected"),
    [
        ((52 * 35, 37 * 35), (52, 37), 3.5),
        ((52 * 35, 37 * 35), (0, 0), 3.5),  # the cell is that of the image
        ((104 * 35, 74 * 35), (104, 74), 3.5),  # a part of a larger one
        ((0, 0), (52, 37), None),
        ((52, 37), (52, 37), None),  # what IMOD writes where it does not know
        ((52 * 35, 37 * 70), (52, 37), None),
        ((np.nan, np.inf), (52, 37), None),
        ((-52 * 35, 37 * 35), (52, 37), 3.5),
    ],
    ids=str,
)
def test_pixel_size(tmp_path, cell, grid, expected):
    path = write(tmp_path / "a.mrc", picture(), CELL=np.array(cell, "<f4").tobytes(), MX=grid)
    size = open_image(path).pixel_size
    assert size == (expected if expected is None else pytest.approx(expected))


def test_fourier_transforms_are_refused(tmp_path):
    path = write(tmp_path / "a.mrc", picture().astype(np.complex64))
    with pytest.raises(ImageFormatError, match=r"complex numbers \(MRC mode 4\), a Fourier"):
        open_image(path)


def test_a_file_that_is_still_written_says_so(tmp_path):
    """SerialEM's header may count sections that are not there yet."""
    stack = np.stack([picture(seed=k) for k in range(3)])
    path = write(tmp_path / "a.mrc", stack.astype(np.int16))
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(open_image(path, 1).read(), stack[1])
    with pytest.raises(ImageFormatError, match=r"cut short: its image 2 ends at byte 12568 of 12"):
        open_image(path, 2)
    packed = tmp_path / "a.mrc.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ImageFormatError, match=r"a\.mrc\.gz is cut short: its image 2 ends"):
        open_image(packed, 2).read()
