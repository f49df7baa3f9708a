"""The column's PVs: settings with readbacks, the magnification table, vacuum, beam and safe state.

Every readback shows what the column said last, and an alarm if it does not answer.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from caproto import ChannelData

from ioc.drivers.protocol import ColumnDriver, ColumnReading, Setting, Value
from ioc.records import Group, clear_alarm, raise_alarm, show
from ioc.worker import Worker

POLL_PERIOD = 0.25  # s; settings change by hand at a panel, vacuum in seconds

logger = logging.getLogger(__name__)


def pv_name(name: str) -> str:
    """Turn a driver's name of a setting into a PV's: image_shift_x into ImageShiftX."""
    return "".join(part.capitalize() for part in name.split("_"))


class Microscope(Group):
    """The column.

    PVs: a pair for each setting of the driver (HighTension, MagMode, Magnification, Defocus, …),
    and PixelSize_RBV (nm), Rotation_RBV (deg), FlipColumns_RBV, FlipRows_RBV, Magnifications_RBV,
    PixelSizes_RBV, Rotations_RBV, Vacuum_RBV (Pa), BeamCurrent_RBV (nA), Temperature_RBV (degC),
    Model_RBV, Error_RBV, MakeSafe.

    Parameters
    ----------
    prefix : str
    driver : ColumnDriver
    timeout : float
        What a call of the driver may take, in s.
    """

    def __init__(self, prefix: str, driver: ColumnDriver, timeout: float) -> None:
        super().__init__(prefix)
        self._driver = driver
        self._worker = Worker("column", timeout)
        self._writing = asyncio.Lock()
        self.answers = True
        self.settings = driver.settings
        reading = driver.read()
        self._settings = {
            name: self.setting(
                pv_name(name), setting, reading.settings[name], partial(self._write, name, setting)
            )
            for name, setting in driver.settings.items()
        }
        self._status = self._add_status(reading)
        self._add_tables()
        self.readback("Model_RBV", driver.model, doc="Make and model of the column")
        self._error = self.readback("Error_RBV", "", long=True, doc="What went wrong last")
        self.command("MakeSafe", self._make_safe, "Write 1: blank the beam and lower the screen")

    def _add_status(self, reading: ColumnReading) -> dict[str, ChannelData]:
        """Add what can only be read, and give the PVs by the names that `_status_of` has."""
        about: dict[str, dict[str, Any]] = {
            "PixelSize": {"units": "nm", "precision": 4},
            "Rotation": {"units": "deg", "precision": 3},
            "FlipColumns": {"choices": ("No", "Yes")},
            "FlipRows": {"choices": ("No", "Yes")},
            # A column is pumped below 1e-4 Pa; the gun valve must close above 1e-3.
            "Vacuum": {"units": "Pa", "precision": 8, "warning": (-1, 1e-4), "alarm": (-1, 1e-3)},
            "BeamCurrent": {"units": "nA", "precision": 3},
            "Temperature": {"units": "degC", "precision": 2, "warning": (10, 35), "alarm": (5, 40)},
        }
        values = self._status_of(reading)
        return {name: self.readback(f"{name}_RBV", values[name], **about[name]) for name in about}

    @staticmethod
    def _status_of(reading: ColumnReading) -> dict[str, Any]:
        return {
            "PixelSize": float(reading.geometry.pixel_size),
            "Rotation": float(reading.geometry.rotation),
            "FlipColumns": "Yes" if reading.geometry.flip_columns else "No",
            "FlipRows": "Yes" if reading.geometry.flip_rows else "No",
            "Vacuum": float(reading.vacuum),
            "BeamCurrent": float(reading.beam_current),
            "Temperature": float(reading.temperature),
        }

    def _add_tables(self) -> None:
        table = self._driver.magnifications
        self.readback("Magnifications_RBV", [int(line.magnification) for line in table])
        self.readback(
            "PixelSizes_RBV", [float(line.pixel_size) for line in table], units="nm", precision=4
        )
        self.readback(
            "Rotations_RBV", [float(line.rotation) for line in table], units="deg", precision=3
        )

    @property
    def _readbacks(self) -> list[ChannelData]:
        return [pair.readback for pair in self._settings.values()] + list(self._status.values())

    async def run(self) -> None:
        """Read the column a few times a second."""
        while True:
            async with self._writing:
                await self._refresh()
            await asyncio.sleep(POLL_PERIOD)

    async def _refresh(self) -> None:
        try:
            reading = await self._worker.call(self._driver.read)
        except Exception as error:
            await self._failed(error)
            return
        if not self.answers:
            self.answers = True
            logger.info("the column answers again")
            await show(self._error, "")
            await clear_alarm(self._readbacks)
        for name, value in reading.settings.items():
            await show(self._settings[name].readback, value)
        for name, value in self._status_of(reading).items():
            await show(self._status[name], value)

    async def _failed(self, error: Exception) -> None:
        if self.answers:
            logger.error("column: %s", error)
        self.answers = False
        await show(self._error, str(error))
        await raise_alarm(self._readbacks)

    async def _write(self, name: str, setting: Setting, wanted: Any) -> Value:
        """Write one setting to the hardware; give what the hardware has then."""
        value = setting.check(pv_name(name), wanted)
        async with self._writing:
            before = {key: pair.value for key, pair in self._settings.items()}
            await self._worker.call(self._driver.write, name, value)
            await self._refresh()
            await self._follow(before, but=name)
        return self._settings[name].value

    async def _follow(self, before: dict[str, Value], but: str = "") -> None:
        """Let setpoints follow what the hardware changed by itself, as a lens mode does."""
        for name, pair in self._settings.items():
            if name != but and pair.value != before[name]:
                await show(pair.setpoint, pair.value)

    def value(self, name: str) -> Value:
        """Give what a setting was when the column was read last."""
        return self._settings[name].value

    async def set(self, name: str, value: Value) -> None:
        """Set one thing, for a sequence; setpoint and readback follow.

        Raises
        ------
        ValueError
            If it is not allowed.
        DriverError
            If the hardware refuses.
        """
        await self._write(name, self.settings[name], value)
        await show(self._settings[name].setpoint, value)

    async def _make_safe(self) -> None:
        async with self._writing:
            before = {name: pair.value for name, pair in self._settings.items()}
            await self._worker.call(self._driver.make_safe)
            await self._refresh()
            await self._follow(before)
