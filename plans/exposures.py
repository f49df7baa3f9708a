"""The steps that all plans are made of: read the calibration, move, expose, record.

A frame is recorded once and only once, also if the RunEngine is paused in the middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import MsgGenerator, RequestAbort, RequestStop, short_uid

from plans.safety import leaves_safe, staged
from processing.geometry import FrameGeometry

T = TypeVar("T")
Readings = dict[str, Any]


@dataclass(frozen=True)
class Calibration:
    """What a frame shows, as the microscope and the camera stand.

    Attributes
    ----------
    geometry : FrameGeometry
        Pixel size (of binned pixels, in nm), angle and flips.
    shape : (int, int)
        (height, width) of a frame, in px.
    magnification : int
    """

    geometry: FrameGeometry
    shape: tuple[int, int]
    magnification: int

    def to_dict(self) -> dict[str, Any]:
        """Give it as it stands in a start document."""
        return {**self.geometry.to_dict(), "magnification": self.magnification}


def value_of(signal: Any) -> MsgGenerator[Any]:
    """Read one value by a message.

    In a dry run (`summarize_plan`, `check_limits`) nobody answers; the value that the signal has
    now then stands in.
    """
    return (yield from bps.rd(signal, default_value=signal.get()))


def read_calibration(camera: Any, scope: Any) -> MsgGenerator[Calibration]:
    """Read what a frame will show.

    Raises
    ------
    ValueError
        If the camera bins rows and columns differently, so that its pixels are not square.
    """
    bin_x = yield from value_of(camera.cam.bin_x)
    bin_y = yield from value_of(camera.cam.bin_y)
    if bin_x != bin_y:
        raise ValueError(
            f"{camera.name} bins {bin_x} columns and {bin_y} rows; pixels must be square: "
            "set bin_x and bin_y alike"
        )
    pixel_size = yield from value_of(scope.pixel_size)
    angle = yield from value_of(scope.rotation)
    flip_columns = yield from value_of(scope.flip_columns)
    flip_rows = yield from value_of(scope.flip_rows)
    height = yield from value_of(camera.cam.array_size.array_size_y)
    width = yield from value_of(camera.cam.array_size.array_size_x)
    magnification = yield from value_of(scope.magnification)
    geometry = FrameGeometry(
        float(pixel_size) * int(bin_x), float(angle), bool(flip_columns), bool(flip_rows)
    )
    return Calibration(geometry, (int(height), int(width)), int(magnification))


def set_exposure(camera: Any, exposure: float | None) -> MsgGenerator[None]:
    """Set the exposure time, in s, or leave it as it is."""
    if exposure is not None:
        yield from bps.abs_set(camera.cam.acquire_time, exposure, wait=True)


def move(targets: Mapping[Any, Any], settle: float) -> MsgGenerator[None]:
    """Set devices all at once, wait for all, and let things settle.

    Parameters
    ----------
    targets : mapping of device to value
    settle : float
        Seconds.
    """
    group = short_uid("move")  # its own, or it would wait for what an aborted move left behind
    for target, value in targets.items():
        yield from bps.abs_set(target, value, group=group)
    yield from bps.wait(group)
    if settle > 0:
        yield from bps.sleep(settle)


def let_settle(axes: Iterable[Any], seconds: float) -> MsgGenerator[None]:
    """Let axes settle: wait until so many seconds have gone by since the last of them arrived."""
    still = seconds - (time.monotonic() - max(axis.arrived for axis in axes))
    if still > 0:
        yield from bps.sleep(still)


def declare(stream: str, *devices: Any) -> MsgGenerator[None]:
    """Describe a stream before its first event.

    It saves the first frame the time that this takes, and after it no step of recording can be
    cut in two by a pause. It is not to be replayed itself, as a stream is described once; if a
    pause cuts it off before it did anything, it answers nothing and is sent again.
    """
    for _ in range(2):
        described = yield from bpp.rewindable_wrapper(
            bps.declare_stream(*devices, name=stream), rewindable=False
        )
        if described is not None:
            return


def expose(
    camera: Any,
    readables: Iterable[Any],
    stream: str,
    ahead: Mapping[Any, float] | None = None,
) -> MsgGenerator[Readings]:
    """Take a frame and record it as one event.

    Parameters
    ----------
    camera : device
    readables : iterable of device
        What is read with the frame.
    stream : str
        Name of the stream, which was declared.
    ahead : mapping of device to float, optional
        Where axes are sent on to once the exposure is over, while the camera reads out and the
        frame is written. Their device, if it is among `readables`, is read before.

    Returns
    -------
    dict
        Readings by key.
    """
    group = short_uid("expose")
    yield from bps.trigger(camera, group=group)
    if not ahead:
        yield from bps.wait(group)
        return (yield from record((camera, *readables), stream))
    yield from bps.trigger(camera.exposure_end, wait=True)
    return (yield from _record_and_go(camera, readables, stream, group, ahead))


def _record_and_go(
    camera: Any, readables: Iterable[Any], stream: str, group: str, ahead: Mapping[Any, float]
) -> MsgGenerator[Readings]:
    """Record a frame that is being read out, and send axes on meanwhile; see `record`."""

    def read_and_go() -> MsgGenerator[Readings]:
        try:
            leaving = {axis.parent for axis in ahead}
            readings = yield from _read_all(one for one in readables if one in leaving)
            for axis, position in ahead.items():
                yield from bps.abs_set(axis.departure, position)
            readings |= yield from _read_all(one for one in readables if one not in leaving)
            yield from bps.wait(group)
        except Exception:
            yield from bps.drop()
            raise
        return readings | (yield from _read_all([camera]))

    return (yield from _one_event(read_and_go(), stream))


def record(devices: Iterable[Any], stream: str) -> MsgGenerator[Readings]:
    """Record what devices read as one event, once and only once.

    Parameters
    ----------
    devices : iterable of device
    stream : str
        Name of the stream, which was declared.

    Returns
    -------
    dict
        Readings by key.

    Notes
    -----
    When the RunEngine is paused it goes back to the last checkpoint, and sends the messages since
    then again. A frame that is exposed when the pause comes is so taken anew; but one that is
    being recorded would be recorded twice. So there the RunEngine may not go back, and it goes on
    behind.
    """
    return (yield from _one_event(_read_all(devices), stream))


def _one_event(body: MsgGenerator[Readings], stream: str) -> MsgGenerator[Readings]:
    """Make one event of what is read in a body, which a pause does not take back."""

    def inner() -> MsgGenerator[Readings]:
        yield from bps.create(stream)
        readings = yield from body
        yield from bps.save()
        return readings

    recorded: Readings = yield from bpp.rewindable_wrapper(inner(), rewindable=False)
    return recorded


def _read_all(devices: Iterable[Any]) -> MsgGenerator[Readings]:
    readings: Readings = {}
    for device in devices:
        reading = yield from bps.read(device)
        readings.update(reading or {})  # in a dry run nobody answers
    return readings


def acquisition(
    body: Callable[[str], MsgGenerator[T]],
    metadata: Mapping[str, Any],
    camera: Any,
    scope: Any,
    ending: Callable[[], Mapping[str, str]] = dict,
) -> MsgGenerator[tuple[str, T]]:
    """Do something within a run, with the camera staged; leave the microscope safe after it.

    Parameters
    ----------
    body : callable
        Given the uid of the run, which is empty in a dry run; returns messages.
    metadata : mapping
        For the start document.
    camera, scope : device
    ending : callable, optional
        Called when the body is done; gives `exit_status` and `reason` for the stop document.

    Returns
    -------
    uid : str
        Of the run.
    result
        What the body returns.
    """
    plan = staged(_in_run(body, metadata, ending), camera)
    return (yield from leaves_safe(plan, scope))


def _in_run(
    body: Callable[[str], MsgGenerator[T]],
    metadata: Mapping[str, Any],
    ending: Callable[[], Mapping[str, str]],
) -> MsgGenerator[tuple[str, T]]:
    """`bluesky.preprocessors.run_wrapper` with the uid, a result, and a word on the end."""
    uid = (yield from bps.open_run(dict(metadata))) or ""

    def close_failed(error: Exception) -> MsgGenerator[None]:
        if isinstance(error, (RequestAbort, RequestStop)):
            yield from bps.close_run(exit_status=error.exit_status)
        else:
            yield from bps.close_run(exit_status="fail", reason=str(error))

    result = yield from bpp.contingency_wrapper(body(uid), except_plan=close_failed)
    yield from bps.close_run(**ending())
    return uid, result
