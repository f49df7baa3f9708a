"""The camera as an areaDetector: the driver's PVs (cam1:) and a module a plugin.

Stock ophyd.areadetector classes and areaDetector screens work against it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ioc.camera.cam import Cam
from ioc.camera.hdf import HdfPlugin
from ioc.camera.image import ImagePlugin
from ioc.camera.plugin import PROCESS_TIMEOUT
from ioc.camera.stats import StatsPlugin
from ioc.drivers.protocol import CameraDriver
from ioc.worker import Worker

__all__ = ["CameraGroups", "camera_groups"]


class CameraGroups(NamedTuple):
    """The groups of a camera: cam1:, image1:, HDF1: and Stats1:."""

    cam: Cam
    image: ImagePlugin
    hdf: HdfPlugin
    stats: StatsPlugin


def camera_groups(
    prefix: str,
    driver: CameraDriver,
    data_root: Path,
    check_storage: Callable[[], None],
    timeout: float,
) -> CameraGroups:
    """Make the groups of a camera.

    Parameters
    ----------
    prefix : str
        Such as "TEM:CAM:".
    driver : CameraDriver
    data_root : Path
        The only folder, with those below it, that frames are written to.
    check_storage : callable
        Called before each frame is written; an OSError that it raises is taken as the disk's.
    timeout : float
        What a call of the driver may take, in s.
    """
    worker = Worker("plugins", PROCESS_TIMEOUT)
    shape, pixel_type = driver.sensor_shape, driver.pixel_types[-1]
    hdf = HdfPlugin(f"{prefix}HDF1:", shape, pixel_type, data_root, check_storage)
    image = ImagePlugin(f"{prefix}image1:", shape, pixel_type, worker)
    stats = StatsPlugin(f"{prefix}Stats1:", shape, pixel_type, worker)
    cam = Cam(f"{prefix}cam1:", driver, [hdf, image, stats], timeout)
    return CameraGroups(cam, image, hdf, stats)
