"""The start-up files, executed one by one: with an instrument, and with nothing running."""

import json
import os
import re
import subprocess
import sys

import pytest

from config import load
from services.console import startup_files
from services.runtime import free_ports
from tests.commands import Command

# Runs each file in IPython, then an expression, and reports as JSON on the last line.
DRIVER = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from services.console import startup_files

shell = InteractiveShell.instance()
failed = {}
for file in startup_files():
    result = shell.run_cell(file.read_text())
    if not result.success:
        failed[file.name] = repr(result.error_in_exec or result.error_before_exec)
value = shell.run_cell(sys.argv[1]).result if len(sys.argv) > 1 else None
print(json.dumps({"failed": failed, "value": value}))
"""


@pytest.fixture(scope="module")
def instrument(tmp_path_factory):
    """Run `temline up` with a small camera; give its folder and environment."""
    folder = tmp_path_factory.mktemp("instrument")
    epics, tiled = free_ports(2)
    environ = {
        "TEMLINE_EPICS__PORT": str(epics),
        "TEMLINE_TILED__PORT": str(tiled),
        "TEMLINE_IOC__OPTIONS__SENSOR": "[256, 256]",
        "TEMLINE_SUPERVISOR__ENABLED": "false",
    }
    up = Command(folder, ("up",), environ)
    try:
        up.until_said("Join with", 120)
        yield folder, environ
    finally:
        up.process.terminate()
        up.wait(30)
        up.end()


def start_up(folder, environ, expression="None"):
    """Execute the start-up files; give the report and what was printed."""
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, expression],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "agg"} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stderr
    *printed, report = result.stdout.splitlines()
    return json.loads(report), "\n".join(printed)


def test_the_files_are_numbered_thin_and_hold_no_classes():
    files = startup_files()
    assert [file.name[:2] for file in files] == sorted({file.name[:2] for file in files})
    for file in files:
        text = file.read_text()
        assert text.startswith('"""')
        assert not re.search(r"^\s*(class|def) ", text, re.MULTILINE)
        assert len(text.splitlines()) < 40


TAKE_A_FRAME = """
uid = RE(snap(camera, scope, exposure=0.05))[0]
pipeline.sink.flush(30)
run = catalog[uid]
report = {
    "unreachable": unreachable,
    "instrument": run.metadata["start"]["instrument"],
    "shape": list(run["primary"]["camera_image"].shape),
    "baseline": sorted(baseline),
    "overlap": montage.keywords["overlap"],
    "vacuum": run["baseline"]["scope_vacuum"].read().tolist(),
}
"""


@pytest.mark.timeout(300)
def test_with_an_instrument_all_is_reached_and_a_run_gets_to_tiled(instrument):
    report, printed = start_up(*instrument, f"{TAKE_A_FRAME}\nreport")
    assert report["failed"] == {}
    assert "NOT REACHED" not in printed
    value = report["value"]
    assert value["unreachable"] == {}
    assert value["instrument"] == "virtual-microscope"
    assert value["shape"][-2:] == [256, 256]
    assert value["baseline"] == ["aperture", "camera.cam.temperature", "scope", "stage"]
    assert len(value["vacuum"]) == 2
    assert value["overlap"] == load(environ={}).config.montage.overlap
    assert all(0 < pressure < 1e-3 for pressure in value["vacuum"])


@pytest.mark.timeout(120)
def test_the_console_opens_ipython_with_them(instrument):
    folder, environ = instrument
    console = Command(folder, ("console",), environ)
    try:
        console.process.stdin.write("RE(bps.mv(stage.x, 12.5))\nprint('at', stage.x.position)\n")
        console.process.stdin.write(
            # All workers are kept busy, so that the montage is still to be processed at the end.
            "import time\n"
            "[pipeline.executor.submit(time.sleep, 5) for _ in range(config.processing.workers)];\n"
            "RE(montage(camera, stage, scope, {'centre': (0, 0), 'width': 1.5, 'height': 0.9}))\n"
        )
        console.process.stdin.close()
        assert console.wait(90) == 0, console.output
    finally:
        console.end()
    assert re.search(r"at 12\.[45]", console.output), console.output
    assert "caRepeater" not in console.output
    # It was left at once, and all the same the montage has its mosaic.
    assert "could not be" not in console.output
    (mosaic,) = (folder / ".temline/data/mosaics").iterdir()
    assert mosaic.name.endswith(".ome.zarr"), console.output


@pytest.mark.timeout(120)
def test_with_nothing_running_it_says_what_is_not_reached_and_goes_on(tmp_path):
    epics, tiled = free_ports(2)
    environ = {"TEMLINE_EPICS__PORT": str(epics), "TEMLINE_TILED__PORT": str(tiled)}
    report, printed = start_up(tmp_path, environ, "sorted(unreachable)")
    assert report["failed"] == {}
    assert report["value"] == ["aperture", "camera", "scope", "sequencer", "stage"]
    for name in report["value"]:
        assert re.search(rf"NOT REACHED +{name}: no answer from TEM:", printed)
    assert f"NOT REACHED  Tiled at http://127.0.0.1:{tiled}" in printed
    assert "`temline up`" in printed
