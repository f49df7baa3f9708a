"""The same instrument and RunEngine as for the tests of devices."""

from __future__ import annotations

import pytest

from tests.devices.conftest import lab, session, shared_lab
from tests.devices.lab import Lab

__all__ = ["lab", "session", "shared_lab"]


@pytest.fixture(autouse=True)
def _as_before(request: pytest.FixtureRequest) -> None:
    """Put back what the test before may have set; keep exposures short."""
    if "lab" not in request.fixturenames:
        return
    lab: Lab = request.getfixturevalue("lab")
    for signal, value in ((lab.camera.cam.acquire_time, 0.01), (lab.scope.defocus, 0)):
        if signal.get() != pytest.approx(value):
            signal.set(value).wait(10)
