"""What a sequence asks of the instrument, and how it names what goes wrong.

The engine (`ioc.sequence`) knows hardware by this alone.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from ioc.drivers.protocol import DriverError, Frame, LostFrameError, StageReading


class FaultCode(IntEnum):
    """What went wrong at a point."""

    NONE = 0
    STALL = 1
    NOT_IN_POSITION = 2
    CAMERA = 3
    LOST_FRAME = 4
    NOT_WRITTEN = 5
    INTERLOCK = 6
    HARDWARE = 7


class SequenceError(DriverError):
    """A point could not be done."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Written:
    """A frame that is on disk: its number, its place in the file, and what Stats1 says of it."""

    number: int
    place: int
    mean: float
    sharpness: float


class Hardware(Protocol):
    """What a sequence asks of the instrument.

    All calls come from its thread, but for `begin` and `abort_exposure`, which must not wait.
    """

    def begin(self) -> None:
        """Take the hardware for the sequence, and note the optics that it begins with.

        Raises
        ------
        DriverError
            If it cannot be had, or a frame would not be written.
        """

    def release(self) -> None:
        """Bring the optics back to where they were, and let others use the hardware.

        Others may use it also if this raises, because the optics could not be brought back.
        """

    def move(self, x: float, y: float) -> float:
        """Set the stage in motion; give the time that it will take, in s; 0 if it is there."""

    def stop(self) -> None:
        """Stop the stage."""

    def position(self) -> StageReading:
        """Read the stage."""

    def set_optics(self, focus: float, shift_x: float, shift_y: float) -> bool:
        """Set what is added to defocus and image shift; tell whether the image shift changed."""

    def shift_by(self, x: float, y: float) -> None:
        """Move the picture's place by some µm of the stage, as long as that stays there."""

    def expose(self, exposure: float) -> None:
        """Expose, and return when the light is in.

        Raises
        ------
        SequenceError
            Of code CAMERA if it fails, INTERLOCK if there is no light before or after it. There is
            then no frame to read.
        """

    def read(self) -> tuple[Future[Frame], Future[Written]]:
        """Have the frame of the last exposure read out and written; wait for neither."""

    def abort_exposure(self) -> None:
        """Have a running exposure return early."""

    def blank(self) -> None:
        """Blank the beam, because nobody is there to look after it."""


def code_of(error: BaseException) -> FaultCode:
    """Tell what kind of fault an error is."""
    if isinstance(error, SequenceError):
        return error.code
    return FaultCode.LOST_FRAME if isinstance(error, LostFrameError) else FaultCode.HARDWARE
