"""Files that are cut short, have bits flipped, or lie about what they are: one line, no more."""

import random
import shutil

import numpy as np
import pytest
import tifffile

from formats.images import ImageFormatError, open_image
from tests.formats.images.pictures import picture
from tests.formats.images.small_files import SMALL_FILES

CUTS, FLIPS = 25, 60


def damaged(content):
    """Give a file cut at places all over it, and with a few bits flipped, mostly in its header."""
    chance = random.Random(11)
    for k in range(CUTS):
        yield content[: len(content) * k // CUTS]
    for _ in range(FLIPS):
        flipped = bytearray(content)
        for _ in range(chance.choice((1, 1, 4))):
            place = chance.randrange(min(len(content), chance.choice((256, 2048, len(content)))))
            flipped[place] ^= 1 << chance.randrange(8)
        yield bytes(flipped)


def refusal(path):
    """Read an image; give why it was refused, None if it was not."""
    try:
        image = open_image(path, 0)
        pixels = image.read()
    except ImageFormatError as error:
        return str(error)
    assert (pixels.shape, pixels.dtype) == (image.shape, image.dtype)
    return None


@pytest.mark.parametrize("name", SMALL_FILES)
def test_damage_ends_in_an_image_or_in_one_line(tmp_path, name):
    SMALL_FILES[name](tmp_path / name)
    assert refusal(tmp_path / name) is None
    content = (tmp_path / name).read_bytes()
    reasons = []
    for number, some in enumerate(damaged(content)):
        path = tmp_path / f"{number}_{name}"
        path.write_bytes(some)
        reason = refusal(path)
        if reason is not None:
            assert "\n" not in reason
            assert str(path) in reason
            reasons.append(reason)
    assert len(reasons) > CUTS // 3


@pytest.mark.parametrize("side", [10**6, 2**31 - 1])
@pytest.mark.parametrize("name", ["plain.tif", "lzw.tif", "int16.mrc", "grey.png", "grey.bmp"])
def test_a_header_that_claims_too_much_is_refused(tmp_path, name, side):
    """Nothing may be made of that size."""
    SMALL_FILES[name](tmp_path / name)
    content = bytearray((tmp_path / name).read_bytes())
    if name.endswith("tif"):
        with tifffile.TiffFile(tmp_path / name) as file:
            entries = [file.pages.first.tags[code].offset for code in (256, 257)]
        for entry in entries:  # one number of 4 bytes
            content[entry + 2 : entry + 12] = b"\4\0\1\0\0\0" + side.to_bytes(4, "little")
    else:
        place, order = {"mrc": (0, "little"), "png": (16, "big"), "bmp": (18, "little")}[name[-3:]]
        content[place : place + 8] = side.to_bytes(4, order) * 2
    (tmp_path / name).write_bytes(content)
    reason = refusal(tmp_path / name)
    assert reason is not None
    assert name in reason


def test_what_is_no_image(tmp_path):
    (tmp_path / "empty.tif").touch()
    (tmp_path / "letter.mrc").write_text("Dear colleague,\n" * 100)
    (tmp_path / "zeros.mrc").write_bytes(bytes(5000))
    (tmp_path / "letter.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    for name, reason in (
        ("empty.tif", "is empty; expected an image"),
        ("letter.mrc", "is no image that temline reads; expected TIFF, MRC, PNG"),
        ("zeros.mrc", "is no image that temline reads"),
        ("letter.gz", "letter.gz"),
        ("nothing.tif", "there is no such file"),
        (".", "is a folder; expected the file of an image"),
    ):
        with pytest.raises(ImageFormatError, match=reason) as refused:
            open_image(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_a_file_that_vanishes_after_it_was_opened(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture())
    image = open_image(tmp_path / "a.tif")
    (tmp_path / "a.tif").unlink()
    with pytest.raises(ImageFormatError, match=r"a\.tif: there is no such file"):
        image.read()


def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    """Nothing of the old one is remembered."""
    for seed in range(3):
        tifffile.imwrite(tmp_path / "a.tif", picture(20 + seed, 30, seed), compression="lzw")
        np.testing.assert_array_equal(
            open_image(tmp_path / "a.tif").read(), picture(20 + seed, 30, seed)
        )


@pytest.mark.parametrize("name", ["plain.tif", "int16.mrc", "deep.png", "image.ser", "image.dm3"])
@pytest.mark.parametrize("lie", ["Präparat 7 ñ.TIF", "lie.mrc", "lie.PNG", "without suffix"])
def test_the_content_decides_and_not_the_name(tmp_path, name, lie):
    SMALL_FILES[name](tmp_path / name)
    expected = open_image(tmp_path / name, 0).read()
    folder = tmp_path / "Mikroskop ü"
    folder.mkdir()
    shutil.copy(tmp_path / name, folder / lie)
    np.testing.assert_array_equal(open_image(str(folder / lie), 0).read(), expected)
