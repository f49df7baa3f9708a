"""DM3, DM4, SER and EMD files, written as their vendors' software writes them."""

import sys
from importlib import import_module

import h5py
import numpy as np
import pytest

from formats.images import ImageFormatError, open_image, open_images
from tests.formats.images.pictures import picture, same
from tests.formats.images.vendor_files import write_dm, write_ser, write_velox

pytest.importorskip("rsciio", reason="the extra 'vendor' is not installed")


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "u4", "f4"])
def test_digital_micrograph(tmp_path, version, dtype):
    expected = picture(top=250).astype(np.uint8 if dtype == "u1" else np.uint16)
    write_dm(tmp_path / f"a.dm{version}", expected.astype(dtype), 3.85, "nm", version)
    image = open_image(tmp_path / f"a.dm{version}")
    same(image, expected)
    assert image.count == 1, "the thumbnail is not an image"
    assert image.pixel_size == pytest.approx(3.85)


@pytest.mark.parametrize(("unit", "expected"), [("µm", 3850.0), ("1/nm", None), ("", None)])
def test_units_of_digital_micrograph(tmp_path, unit, expected):
    write_dm(tmp_path / "a.dm3", picture(), 3.85, unit)
    size = open_image(tmp_path / "a.dm3").pixel_size
    assert size == (expected if expected is None else pytest.approx(expected))


def test_a_stack_of_digital_micrograph(tmp_path):
    stack = np.stack([picture(seed=k) for k in range(3)])
    write_dm(tmp_path / "a.dm4", stack, 3.85, "nm", 4)
    for image, expected in zip(open_images(tmp_path / "a.dm4"), stack, strict=True):
        same(image, expected)


@pytest.mark.parametrize("version", [0x0210, 0x0220])
def test_tia_has_the_first_row_at_the_bottom(tmp_path, version):
    stack = np.stack([picture(seed=k) for k in range(3)])
    write_ser(tmp_path / "a.img", stack, 3.85e-9, version)
    images = open_images(tmp_path / "a.img")
    for image, expected in zip(images, stack, strict=True):
        same(image, expected)
        assert image.pixel_size == pytest.approx(3.85)


def test_tia_agrees_with_rosettasciio(tmp_path):
    stack = np.stack([picture(seed=k) for k in range(3)]).astype(np.int32) * 99
    write_ser(tmp_path / "a.ser", stack, 3.85e-9)
    (signal,) = import_module("rsciio.tia").file_reader(str(tmp_path / "a.ser"))
    np.testing.assert_array_equal(signal["data"], stack)
    levels = open_image(tmp_path / "a.ser", 0).levels
    for image, expected in zip(open_images(tmp_path / "a.ser"), signal["data"], strict=True):
        np.testing.assert_array_equal(image.read(), levels.apply(expected))


def test_tia_without_what_it_should_have(tmp_path):
    write_ser(tmp_path / "a.ser", picture()[None], 3.85e-9)
    content = (tmp_path / "a.ser").read_bytes()
    (tmp_path / "a.ser").write_bytes(content[:-200])
    with pytest.raises(ImageFormatError, match=r"a\.ser is cut short: its image ends at byte"):
        open_image(tmp_path / "a.ser")
    (tmp_path / "a.ser").write_bytes(content[:6] + b"\x20\x41" + content[8:])
    with pytest.raises(ImageFormatError, match="holds spectra, no image"):
        open_image(tmp_path / "a.ser")


def test_velox(tmp_path):
    stack = np.stack([picture(seed=k) for k in range(3)])
    write_velox(tmp_path / "a.emd", stack.astype(np.int16), 3.85e-9)
    for image, expected in zip(open_images(tmp_path / "a.emd"), stack, strict=True):
        same(image, expected)
        assert image.pixel_size == pytest.approx(3.85)


def test_several_data_sets_are_counted_one_after_another(tmp_path):
    """As py4DSTEM and others write EMD: here three planes, and one."""
    stack = np.stack([picture(seed=k) for k in range(4)])
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file.attrs.update(version_major=0, version_minor=2)
        for name, data in (("a", stack[:3]), ("b", stack[3])):
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            group["data"] = data.T  # x, y, then others
            for number, length in enumerate(data.T.shape, 1):
                axis = group.create_dataset(f"dim{number}", data=np.arange(length) * 3.85)
                axis.attrs.update(name=b"xyz"[number - 1 : number], units=b"[n_m]")
    for image, expected in zip(open_images(tmp_path / "a.emd"), stack, strict=True):
        np.testing.assert_array_equal(image.read(), expected)


def test_hdf5_of_others_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data"] = picture()
    with pytest.raises(ImageFormatError, match=r"a\.h5 ") as refused:
        open_image(tmp_path / "a.h5")
    assert "\n" not in str(refused.value)


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    write_dm(tmp_path / "a.dm3", picture(), 3.85, "nm")
    monkeypatch.setitem(sys.modules, "rsciio", None)
    with pytest.raises(
        ImageFormatError, match=r"a\.dm3 is a DM3 or DM4 file, which .* install 'temline\[vendor\]'"
    ):
        open_image(tmp_path / "a.dm3")
