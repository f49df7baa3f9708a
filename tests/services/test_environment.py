"""The EPICS variables: what they say, and that they come before the libraries that read them."""

import subprocess
import sys

import pytest

from config import load
from services.environment import epics_variables


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_servers_bind_to_loopback_and_clients_search_only_there():
    variables = epics_variables(load(environ={"TEMLINE_EPICS__PORT": "6123"}).config)
    assert variables["EPICS_CAS_INTF_ADDR_LIST"] == "127.0.0.1"
    assert variables["EPICS_CA_ADDR_LIST"] == "127.0.0.1:6123 127.0.0.1:5065"
    assert variables["EPICS_CA_AUTO_ADDR_LIST"] == "NO"
    assert variables["EPICS_CA_SERVER_PORT"] == "6123"


def test_further_servers_are_searched_too():
    config = load(environ={"TEMLINE_EPICS__ADDRESSES": "[10.0.0.7, 10.0.0.8:5065]"}).config
    addresses = epics_variables(config)["EPICS_CA_ADDR_LIST"].split()
    own = ["127.0.0.1:5064", "127.0.0.1:5065"]  # of the IOC, and of the supervising server
    assert addresses == [*own, "10.0.0.7", "10.0.0.8:5065"]


def test_a_server_on_all_interfaces_is_found_on_loopback():
    config = load(environ={"TEMLINE_EPICS__INTERFACES": "[0.0.0.0]"}).config
    variables = epics_variables(config)
    assert variables["EPICS_CAS_INTF_ADDR_LIST"] == "0.0.0.0"
    assert variables["EPICS_CA_ADDR_LIST"] == "127.0.0.1:5064 127.0.0.1:5065"


@pytest.mark.parametrize("library", ["epics", "caproto"])
def test_it_is_an_error_to_set_them_after_channel_access_was_imported(library):
    result = run(
        f"import {library}\n"
        "from config import load\n"
        "from services.environment import set_environment\n"
        "set_environment(load(environ={'TEMLINE_EPICS__PORT': '6124'}).config)\n"
    )
    assert result.returncode == 1
    assert f"TooLateError: {library} was imported before EPICS_CA" in result.stderr


def test_setting_them_twice_alike_is_no_error():
    result = run(
        "from config import load\n"
        "from services.environment import set_environment\n"
        "config = load(environ={'TEMLINE_EPICS__PORT': '6124'}).config\n"
        "set_environment(config)\n"
        "import caproto, os\n"
        "set_environment(config)\n"
        "print(os.environ['EPICS_CA_SERVER_PORT'])\n"
    )
    assert result.stdout == "6124\n", result.stderr
