"""The rules of OME-NGFF 0.5 for images (https://ngff.openmicroscopy.org/0.5/), as checks."""

from __future__ import annotations

import math
from typing import Any

import zarr

UNITS = {"nanometer", "micrometer", "millimeter", "meter", "angstrom"}
ORDER = {"time": 0, "channel": 1, "space": 2}


def check_image(group: zarr.Group) -> dict[str, Any]:
    """Check the metadata of a multiscale image, and that its arrays agree; give the metadata."""
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert "multiscales" in ome
    for image in ome["multiscales"]:
        check_axes(image["axes"])
        check_datasets(group, image)
    check_omero(ome["omero"], group)
    return dict(ome)


def check_axes(axes: list[dict[str, str]]) -> None:
    assert 2 <= len(axes) <= 5
    kinds = [axis["type"] for axis in axes]
    assert kinds.count("space") in (2, 3)
    assert kinds.count("time") <= 1
    assert kinds.count("channel") <= 1
    assert kinds == sorted(kinds, key=ORDER.__getitem__)
    names = [axis["name"] for axis in axes]
    assert len(set(names)) == len(names)
    assert [axis["name"] for axis in axes if axis["type"] == "space"][-2:] == ["y", "x"]
    for axis in axes:
        if axis["type"] == "space":
            assert axis["unit"] in UNITS


def check_datasets(group: zarr.Group, image: dict[str, Any]) -> None:
    names, dtypes, sizes = [axis["name"] for axis in image["axes"]], set(), []
    assert image["datasets"]
    for dataset in image["datasets"]:
        array = group[dataset["path"]]
        assert array.metadata.zarr_format == 3
        assert list(array.metadata.dimension_names) == names
        assert array.ndim == len(names)
        dtypes.add(array.dtype)
        sizes.append(array.size)
        first, *rest = dataset["coordinateTransformations"]
        assert first["type"] == "scale"
        assert len(first["scale"]) == len(names)
        assert all(math.isfinite(factor) and factor > 0 for factor in first["scale"])
        assert [transformation["type"] for transformation in rest] in ([], ["translation"])
        for transformation in rest:
            assert len(transformation["translation"]) == len(names)
            assert all(map(math.isfinite, transformation["translation"]))
    assert len(dtypes) == 1
    assert sizes == sorted(sizes, reverse=True)


def check_omero(omero: dict[str, Any], group: zarr.Group) -> None:
    assert len(omero["channels"]) == group["0"].shape[0]
    for channel in omero["channels"]:
        assert len(channel["color"]) == 6
        int(channel["color"], 16)
        window = channel["window"]
        assert window["min"] <= window["start"] < window["end"] <= window["max"]
