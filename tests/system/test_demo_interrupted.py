"""Ctrl-C of the demo at any moment: it ends, and nothing stays behind."""

import signal
import time

import pytest

from tests.commands import press_ctrl_c
from tests.support import wait_until
from tests.system.demos import FEW_FRAMES, TINY


def _at_once(demo):
    return True


def _while_it_imports(demo):
    return demo.process.poll() is None and time.monotonic() - demo.begun > 0.3


def _when_the_ioc_starts(demo):
    return (demo.folder / ".temline" / "log" / "ioc.log").exists()


def _when_tiled_serves(demo):
    log = demo.folder / ".temline" / "log" / "tiled.log"
    return log.exists() and "Uvicorn running" in log.read_text()


def _in_the_montage(demo):
    # After autofocus, dark field and bright field, each with a file of its own.
    return len(list((demo.folder / ".temline" / "data" / "frames").rglob("*.h5"))) > 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "moment",
    [
        _at_once,
        _while_it_imports,
        _when_the_ioc_starts,
        _when_tiled_serves,
        _in_the_montage,
    ],
)
def test_ctrl_c_at_any_moment_leaves_no_process(temline, left_over, moment):
    demo = temline(*TINY, **FEW_FRAMES)
    demo.begun = time.monotonic()
    demo.until(lambda: moment(demo), moment.__name__)
    press_ctrl_c(demo.process)
    # What is being compiled on a fresh machine cannot be interrupted. What is interrupted before
    # Python itself has come up says so, and ends with 1.
    code = demo.wait(90)
    assert code in (130, -signal.SIGINT) or "init_import_site" in demo.output, demo.output
    # A child that was only just started notices by itself that its parent is gone.
    wait_until(lambda: left_over() == [], 20, "end of what it had started")
