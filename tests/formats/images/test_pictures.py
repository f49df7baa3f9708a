"""PNG, JPEG and other pictures, made by Pillow and OpenCV."""

import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from formats.images import ImageFormatError, open_image, open_images
from tests.formats.images.pictures import WINDOW, picture, same


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jp2", "pgm"])
def test_what_keeps_its_numbers(tmp_path, suffix):
    expected = picture().astype(np.uint8)
    how = {"lossless": True} if suffix == "webp" else {}
    PIL.Image.fromarray(expected).save(tmp_path / f"a.{suffix}", **how)
    same(tmp_path / f"a.{suffix}", expected)


@pytest.mark.parametrize("suffix", ["png", "pgm", "jp2"])
def test_sixteen_bits(tmp_path, suffix):
    expected = picture(top=60_000)
    how = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if suffix == "jp2" else []
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), expected, how)
    same(tmp_path / f"a.{suffix}", expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_that_is_stored_as_colour_stays_exact(tmp_path, dtype):
    grey = picture(top=np.iinfo(dtype).max).astype(dtype)
    assert cv2.imwrite(str(tmp_path / "a.png"), np.dstack([grey] * 3))
    same(tmp_path / "a.png", grey)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_becomes_luma(tmp_path, dtype):
    top = np.iinfo(dtype).max
    red, green, blue = (picture(seed=k, top=top).astype(dtype) for k in range(3))
    assert cv2.imwrite(str(tmp_path / "a.png"), np.dstack([blue, green, red]))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert np.abs(open_image(tmp_path / "a.png").read() - luma).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_transparent_is_no_signal(tmp_path, dtype):
    top = np.iinfo(dtype).max
    grey = picture(top=top).astype(dtype)
    alpha = np.where(grey > top // 2, top, 0).astype(dtype)
    assert cv2.imwrite(str(tmp_path / "a.png"), np.dstack([grey, grey, grey, alpha]))
    same(tmp_path / "a.png", np.where(alpha, grey, 0).astype(dtype))


def test_palettes_and_bits(tmp_path):
    expected = picture().astype(np.uint8)
    names = PIL.Image.fromarray(255 - expected, "P")
    names.putpalette(np.repeat(np.arange(255, -1, -1), 3).tolist())
    names.save(tmp_path / "a.png")
    same(tmp_path / "a.png", expected)
    names.save(tmp_path / "a.gif")
    same(tmp_path / "a.gif", expected)
    PIL.Image.fromarray(expected > 99).save(tmp_path / "b.png")
    same(tmp_path / "b.png", np.where(expected > 99, 255, 0).astype(np.uint8))


def test_jpeg_is_close_and_upright(tmp_path):
    """Cameras store the picture as the sensor lay, and say in EXIF how it is meant."""
    expected = picture(64, 96).astype(np.uint8)
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.fromarray(np.rot90(expected)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    image = open_image(tmp_path / "a.jpg")
    assert image.shape == (64, 96)
    read = image.read()
    assert np.abs(read.astype(int) - expected).mean() < 2
    np.testing.assert_array_equal(image.read(WINDOW), read[WINDOW])


@pytest.mark.parametrize(
    ("dpi", "expected"), [(None, None), (72, None), (300, None), (25.4e6 / 4, 4.0)]
)
def test_pixel_size_is_no_printers(tmp_path, dpi, expected):
    how = {} if dpi is None else {"dpi": (dpi, dpi)}
    PIL.Image.fromarray(picture().astype(np.uint8)).save(tmp_path / "a.png", **how)
    size = open_image(tmp_path / "a.png").pixel_size
    assert size == (expected if expected is None else pytest.approx(expected, rel=1e-4))


def test_moving_pictures_are_stacks(tmp_path):
    frames = [PIL.Image.fromarray(picture(seed=k).astype(np.uint8)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFormatError, match="holds 3 images; expected one"):
        open_image(tmp_path / "a.gif")
    for k, image in enumerate(open_images(tmp_path / "a.gif")):
        difference = image.read().astype(int) - picture(seed=k)
        assert np.abs(difference).mean() < 2


def test_the_size_of_the_file_tells_mosaics_from_bombs(tmp_path):
    """Pillow alone refuses 180 Mpx, and takes 170 Mpx from whatever claims them."""
    PIL.Image.fromarray(picture().astype(np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for side, filled, read in ((14_000, 0, True), (20_000, 0, False), (20_000, 500_000, True)):
        header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
        crc = struct.pack(">I", zlib.crc32(header))
        (tmp_path / "b.png").write_bytes(content[:12] + header + crc + content[33:] + bytes(filled))
        if read:
            assert open_image(tmp_path / "b.png").shape == (side, side)
        else:
            with pytest.raises(ImageFormatError, match=r"claims 20000 × 20000 px, which its \d+"):
                open_image(tmp_path / "b.png")
