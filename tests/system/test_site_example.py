"""The site example works: another prefix and another class, against an IOC that serves them."""

import json
import subprocess
import sys

import pytest

from config.loader import DEFAULT
from services.runtime import free_ports

SITE = DEFAULT.with_name("site-example.yml")

# A process of its own: the Channel Access libraries read their environment once.
MAKE_DEVICES = """
import json
from config import load
from services.environment import set_environment

config = load().config
set_environment(config)
from services.engine import connect_devices, make_devices

devices = make_devices(config)
problems = connect_devices(devices, 20)
devices["aperture"].put(2, wait=True)
print(json.dumps({
    "problems": problems,
    "classes": {name: type(one).__name__ for name, one in devices.items()},
    "model": devices["scope"].model.pvname,
    "aperture": devices["aperture"].get(),
}))
"""


@pytest.mark.timeout(180)
def test_the_devices_of_the_site_example_connect(temline, tmp_path):
    (port,) = free_ports(1)
    environ = {
        "TEMLINE_CONFIG": str(SITE),
        "TEMLINE_EPICS__PORT": str(port),
        "TEMLINE_IOC__OPTIONS__SENSOR": "[256, 256]",
        "TEMLINE_IOC__OPTIONS__SPECIMEN": "tape",
    }
    ioc = temline("ioc", **environ)
    ioc.until_said("serving", 60)
    result = subprocess.run(
        [sys.executable, "-c", MAKE_DEVICES],
        cwd=tmp_path,
        env=ioc.environ,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["problems"] == {}
    assert report["classes"]["aperture"] == "EpicsSignal"
    assert report["classes"]["stage"] == "Stage"
    assert report["model"] == "LAB7:SCOPE:Model_RBV"
    assert report["aperture"] == 2
