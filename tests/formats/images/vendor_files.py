"""Writes files as vendors' software does, which no library writes: DM3 and DM4, SER, EMD of Velox.

Their layouts are those of real files, with all the keys that these have round an image.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

# -- DigitalMicrograph -----------------------------------------------------------------------------

DATA_TYPES = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12}
ELEMENT_CODES = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10}
RGBA = 23


def write_dm(
    path: Path, image: NDArray[Any], pixel_size: float, unit: str, version: int = 3
) -> None:
    """Write an image as DigitalMicrograph does: first comes its thumbnail, then itself.

    Parameters
    ----------
    path : Path
    image : ndarray, shape (height, width) or (planes, height, width)
    pixel_size : float
    unit : str
    version : {3, 4}
    """
    thumbnail = np.full((64, 64), 0x00808080, "<i4")
    tags = {
        "DocumentObjectList": [
            {
                "AnnotationType": 20,
                "BackgroundMode": 2,
                "ImageDisplayInfo": {
                    "Brightness": 0.5,
                    "Contrast": 0.5,
                    "Gamma": 0.5,
                    "IsInverted": False,
                    "LowLimit": 1.0,
                    "HighLimit": 4.0,
                },
                "ImageDisplayType": 1,
                "ImageSource": 0,
                "UniqueID": 8,
            }
        ],
        "DocumentTags": {},
        "HasWindowPosition": False,
        "Image Behavior": {"DoIntegralZoom": True, "IsZoomedToWindow": False, "ViewDisplayID": 8},
        "ImageList": [
            _dm_image(thumbnail, RGBA, 1.0, "", "Image Of a"),
            _dm_image(image, DATA_TYPES[image.dtype.str[1:]], pixel_size, unit, "a"),
        ],
        "ImageSourceList": [{"ClassName": "ImageSource:Simple", "Id": [0], "ImageRef": 1}],
        "InImageMode": True,
        "MinVersionList": [{"RequiredVersion": 50659328}],
        "NextDocumentObjectID": 9,
        "SentinelList": {},
        "Thumbnails": [{"ImageIndex": 0}],
    }
    number = ">i" if version == 3 else ">q"
    root = _group_body(tags, number)
    size = struct.pack(number, len(root) + 4)
    path.write_bytes(struct.pack(">i", version) + size + struct.pack(">i", 1) + root + bytes(8))


def _dm_image(
    image: NDArray[Any], data_type: int, pixel_size: float, unit: str, name: str
) -> dict[str, Any]:
    sides = image.shape[::-1]
    scales = [(pixel_size, unit)] * 2 + [(1.0, "")] * (len(sides) - 2)
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": {"Origin": 0.0, "Scale": 1.0, "Units": ""},
                "Dimension": [
                    {"Origin": 0.0, "Scale": scale, "Units": name} for scale, name in scales
                ],
                "DisplayCalibratedUnits": True,
            },
            "Data": image,
            "DataType": data_type,
            "Dimensions": list(sides),
            "PixelDepth": image.dtype.itemsize,
        },
        "ImageTags": {},
        "Name": name,
        "UniqueID": [1, 2, 3, 4],
    }


def _group_body(tags: dict[str, Any] | list[Any], number: str) -> bytes:
    named = list(tags.items()) if isinstance(tags, dict) else [("", value) for value in tags]
    body = b"".join(_tag(name, value, number) for name, value in named)
    return b"\1\0" + struct.pack(number, len(named)) + body


def _tag(name: str, value: Any, number: str) -> bytes:
    group = isinstance(value, dict | list)
    start = struct.pack(">bh", 20 if group else 21, len(name)) + name.encode()
    if not group:
        body = b"%%%%" + _value(value, number)
        return start + (struct.pack(">q", len(body)) if number == ">q" else b"") + body
    body = _group_body(value, number)
    # The size stands behind the two bytes that say whether the group is sorted, and open.
    return start + (body[:2] + struct.pack(">q", len(body)) + body[2:] if number == ">q" else body)


def _value(value: Any, number: str) -> bytes:
    """Write a value, which begins with the numbers that tell its kind."""
    if isinstance(value, bool):
        info, content = (8,), struct.pack("<b", value)
    elif isinstance(value, int):
        info, content = (5,), struct.pack("<I", value)
    elif isinstance(value, float):
        info, content = (6,), struct.pack("<f", value)
    else:
        array = np.array([ord(c) for c in value], "<u2") if isinstance(value, str) else value
        info = (20, ELEMENT_CODES[array.dtype.str[1:]], array.size)
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(struct.pack(number, n) for n in (len(info), *info)) + content


# -- TIA -------------------------------------------------------------------------------------------

SER_TYPES = {"u1": 1, "u2": 2, "u4": 3, "i1": 4, "i2": 5, "i4": 6, "f4": 7, "f8": 8}


def write_ser(path: Path, stack: NDArray[Any], pixel_size: float, version: int = 0x0220) -> None:
    """Write images, the first row of each at the bottom, as TIA does.

    Parameters
    ----------
    path : Path
    stack : ndarray, shape (n, height, width)
        Rows from the top.
    pixel_size : float
        In m.
    version : {0x0210, 0x0220}
        With offsets of 4 bytes, or of 8.
    """
    count, height, width = stack.shape
    offset = "<I" if version <= 0x0210 else "<Q"
    unit = b"Number"
    dimension = struct.pack("<IddIII", count, 0.0, 1.0, 0, 0, len(unit)) + unit
    start = 22 + struct.calcsize(offset) + 4 + len(dimension)
    elements = [
        struct.pack(
            "<ddIddIHII",
            0,
            pixel_size,
            0,
            0,
            pixel_size,
            0,
            SER_TYPES[image.dtype.str[1:]],
            width,
            height,
        )
        + image[::-1].tobytes()
        for image in stack
    ]
    tags = [struct.pack("<HHIdd", 0x4142, 0, 1_700_000_000 + k, 0.0, 0.0) for k in range(count)]
    data = start + 2 * count * struct.calcsize(offset)
    size, tag_size = len(elements[0]), len(tags[0])
    step = size + tag_size
    places = [data + k * step for k in range(count)]
    places += [data + k * step + size for k in range(count)]
    path.write_bytes(
        struct.pack("<HHHIIII", 0x4949, 0x0197, version, 0x4122, 0x4142, count, count)
        + struct.pack(offset, start)
        + struct.pack("<I", 1)
        + dimension
        + b"".join(struct.pack(offset, place) for place in places)
        + b"".join(element + tag for element, tag in zip(elements, tags, strict=True))
    )


# -- Velox -----------------------------------------------------------------------------------------

METADATA_BYTES = 60_000


def write_velox(path: Path, stack: NDArray[Any], pixel_size: float) -> None:
    """Write the frames of a camera as Velox does.

    Parameters
    ----------
    path : Path
    stack : ndarray, shape (n, height, width)
    pixel_size : float
        In m.
    """
    count, height, width = stack.shape
    metadata = {
        "Core": {"MetadataDefinitionVersion": "7.9", "MetadataSchemaVersion": "v1/2013/07"},
        "Instrument": {"Manufacturer": "FEI Company", "InstrumentModel": "Titan"},
        "Acquisition": {
            "AcquisitionStartDatetime": {"DateTime": "1575540224"},
            "AcquisitionDatetime": {"DateTime": "1575540224"},
        },
        "Optics": {"AccelerationVoltage": "300000", "NominalMagnification": "1271519.155"},
        "Stage": {"Position": {"x": "1e-05", "y": "-1e-05", "z": "-1e-05"}, "AlphaTilt": "0"},
        "Scan": {"ScanSize": {"width": "0", "height": "0"}, "FrameTime": "0.8"},
        "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "ExposureTime": "0.8"}},
        "BinaryResult": {
            "AcquisitionUnit": "CameraImage",
            "DetectorIndex": "0",
            "Detector": "BM-Ceta",
            "ImageSize": {"width": str(width), "height": str(height)},
            "PixelSize": {"width": str(pixel_size), "height": str(pixel_size)},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
            "Offset": {"x": "0", "y": "0"},
            "Encoding": "Signed",
            "BitsPerPixel": "16",
        },
        "CustomProperties": {},
    }
    coded = json.dumps(metadata).encode()
    column = np.frombuffer(coded.ljust(METADATA_BYTES, b"\0"), np.uint8)
    text = h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as file:
        file.create_dataset("Version", data=['{"version": "8", "format": "Velox"}'], dtype=text)
        file.create_dataset("Info", data=['{"applicationVersion": "2.10.0.716"}'], dtype=text)
        file.create_dataset("Experiment", data=['{"log": ""}'], dtype=text)
        file.create_group("Features")
        file.create_group("Operations")
        file.create_group("Presentation")
        image = file.create_group("Data/Image/26f60320a61d4f66a73efd8cde34ffa9")
        frames = np.moveaxis(stack, 0, -1)
        image.create_dataset("Data", data=frames, chunks=(height, width, 1))
        image.create_dataset("Metadata", data=np.repeat(column[:, None], count, axis=1))
        image.create_dataset("FrameLookupTable", data=np.zeros(count + 1, np.uint32))
