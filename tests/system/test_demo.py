"""The demo, as a user runs it: what it measures, what it prints, and that nothing stays behind."""

import json
import re
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from tests.commands import press_ctrl_c
from tests.system.demos import FEW_FRAMES, TINY

SMALL = ("demo", "--rows", "3", "--columns", "3", "--tile-size", "512")
KEYS = {
    "tiles_taken",
    "tiles_skipped",
    "tiles_retaken",
    "tiles_failed",
    "residual_px_median",
    "truth_error_px_rms",
    "nominal_error_px_rms",
    "mpx_per_s",
    "exposure_share",
    "seconds",
    "raw_uid",
    "processed_uid",
}


@pytest.mark.timeout(300)
def test_a_small_demo_measures_what_it_did_and_stays_until_ctrl_c(temline, tmp_path, left_over):
    demo = temline(*SMALL, "--json", "figures.json", **FEW_FRAMES)
    demo.until_said("Ctrl-C ends everything", 240)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.keys() >= KEYS
    assert (figures["tiles_taken"], figures["tiles_skipped"]) == (7, 2)
    assert figures["tiles_failed"] == 0
    assert figures["residual_px_median"] <= 1.0
    assert figures["truth_error_px_rms"] <= 1.0
    assert figures["nominal_error_px_rms"] > 5 * figures["truth_error_px_rms"]
    assert 0 < figures["exposure_share"] < 1
    assert f"{figures['truth_error_px_rms']:.3f} px" in demo.output
    assert "7 taken, 2 skipped" in demo.output
    check_that_its_python_lines_open_the_mosaic(demo.output)

    second = temline(*TINY)
    assert second.wait(60) == 1
    assert "temline demo runs here already" in second.output
    assert str(demo.process.pid) in second.output

    press_ctrl_c(demo.process)
    assert demo.wait() == 0
    assert "Stopping" in demo.output
    assert left_over() == []
    assert {path.name for path in (tmp_path / ".temline" / "log").glob("*.log")} == {
        "demo.log",
        "ioc.log",
        "tiled.log",
    }


def check_that_its_python_lines_open_the_mosaic(said: str) -> None:
    lines = re.findall(r"^    (.*)$", said, re.MULTILINE)
    script = "\n".join((*lines, "print(mosaic.shape, mosaic.dtype, float(mosaic.std()))"))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    height, width, dtype, spread = re.fullmatch(
        r"\((\d+), (\d+)\) (\w+) (\S+)\n", result.stdout
    ).groups()
    assert 1024 < int(height) < 1536
    assert 1024 < int(width) < 1536
    assert dtype == "uint16"
    assert np.isfinite(float(spread))
    assert float(spread) > 0


@pytest.mark.timeout(300)
def test_a_demo_that_is_told_to_exit_does_so(temline, left_over):
    demo = temline(*TINY, "--exit", **FEW_FRAMES)
    assert demo.wait(240) == 0, demo.output
    assert left_over() == []


def test_a_specimen_that_does_not_exist_is_refused(temline):
    demo = temline("demo", "--specimen", "nowhere.png")
    assert demo.wait(60) == 1
    assert "--specimen nowhere.png: there is no such file" in demo.output
    assert "Traceback" not in demo.output


def test_a_file_that_is_no_image_is_refused_with_its_name(temline, tmp_path, left_over):
    (tmp_path / "letter.png").write_text("not an image")
    demo = temline(*TINY, "--specimen", "letter.png")
    assert demo.wait(120) == 1
    assert "letter.png" in demo.output
    assert "Traceback" not in demo.output
    assert left_over() == []
    assert "is no image that temline reads" in demo.output
    assert "Starting" not in demo.output


def test_an_image_that_is_smaller_than_a_tile_is_refused_with_what_to_set(temline, tmp_path):
    """Its file tells pixels of 0.1 nm: a tile would show it 25 times over."""
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.random.default_rng(0).integers(0, 999, (400, 400)).astype(np.int16))
        file.voxel_size = 1.024
    demo = temline(*TINY, "--specimen", "a.mrc")
    assert demo.wait(120) == 1
    (said,) = demo.lines
    assert "covers 0.041 µm" in said
    assert "temline demo: --pixel-size) to 1.28 to 128 nm" in said
