"""Images that others ship with their packages, beside Pillow's own reading of them."""

from pathlib import Path

import numpy as np
import pytest
import skimage

from tests.formats.images.sweep import by_pillow, look

SUFFIXES = ".png", ".jpg", ".tif", ".gif"
SHIPPED = [path for path in Path(skimage.data_dir).iterdir() if path.suffix in SUFFIXES]


@pytest.mark.parametrize("path", sorted(SHIPPED), ids=lambda path: path.name)
def test_what_others_ship_is_read_as_pillow_reads_it(path):
    finding = look(path)
    assert finding.result == "read", finding.told
    other = by_pillow(path)
    if other is None:
        assert path.name == "multipage_rgb.tif"  # of 64 bits a colour
        return
    pixels = finding.pixels
    if pixels.dtype == np.uint16 and other.dtype == np.uint8:
        pixels = pixels >> 8  # all that Pillow keeps of colours of 16 bits
    covered = pixels > 0  # what is transparent is 0
    assert np.abs(other.astype(int) - pixels)[covered].mean() < 1


def test_there_are_some():
    assert len(SHIPPED) > 10
