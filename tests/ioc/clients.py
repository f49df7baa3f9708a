"""Stock ophyd devices over the IOC, and a client that sees the errors of refused writes."""

from __future__ import annotations

from typing import Any

from caproto import ErrorResponseReceived
from caproto.sync import client
from ophyd import Component, EpicsMotor
from ophyd.areadetector import DetectorBase
from ophyd.areadetector.cam import CamBase
from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
from ophyd.areadetector.plugins import HDF5Plugin, ImagePlugin, StatsPlugin
from ophyd.areadetector.trigger_mixins import SingleTrigger

from tests.support import IocProcess

TIMEOUT = 10.0


class HDF5Writer(HDF5Plugin, FileStoreHDF5IterativeWrite):
    """The stock file plugin with the stock mixin."""


def make_detector(ioc: IocProcess, name: str = "det") -> Any:
    """Make a detector of nothing but stock classes, connected."""

    class Detector(SingleTrigger, DetectorBase):
        cam = Component(CamBase, "cam1:")
        image = Component(ImagePlugin, "image1:")
        stats = Component(StatsPlugin, "Stats1:")
        hdf = Component(
            HDF5Writer,
            "HDF1:",
            write_path_template=f"{ioc.data_root}/%Y/%m/%d",
            root=str(ioc.data_root),
        )

    detector = Detector(f"{ioc.prefix}CAM:", name=name)
    detector.wait_for_connection(timeout=TIMEOUT)
    for lazy in ("array_data", "array_size", "ndimensions"):  # else at their first use
        getattr(detector.image, lazy).wait_for_connection(timeout=2 * TIMEOUT)
    detector.hdf.kind = detector.stats.kind = detector.stats.mean_value.kind = "hinted"
    # A stock SingleTrigger needs some time after the start before the camera is done.
    detector.cam.acquire_time.set(0.15).wait(TIMEOUT)
    return detector


def make_motor(ioc: IocProcess, axis: str) -> EpicsMotor:
    """Make a stock motor, connected."""
    motor = EpicsMotor(f"{ioc.prefix}STAGE:{axis}", name=axis.lower(), timeout=TIMEOUT)
    motor.wait_for_connection(timeout=TIMEOUT)
    return motor


def refusal(name: str, value: Any) -> str:
    """Write a value that must be refused; give the server's message.

    pyepics takes no notice of the error that comes in place of a put-completion; this client does.
    """
    try:
        client.write(name, value, notify=True, timeout=TIMEOUT, repeater=False)
    except ErrorResponseReceived as error:
        response = error.args[0]
        assert response.status.name == "ECA_PUTFAIL"
        return bytes(response.error_message).decode().rstrip("\0")
    raise AssertionError(f"{name} took {value!r}, which is to be refused")
