"""The road of a lens correction on the virtual microscope, from the plan to a corrected montage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from callbacks.folders import DataFolders
from callbacks.lens import LensProcessor, LensSettings
from callbacks.lens_files import lens_path, load_lens
from callbacks.tile_processor import TileProcessor
from plans import lens_correction, montage
from processing.lens import LensModel
from processing.lens.model import grid_places
from simulation.distortion import Distortion
from tests.callbacks.conftest import SETTINGS
from tests.devices.lab import Lab, Session
from tests.processing.lenses import error
from tests.support import wait_until

SENSOR = (512, 512)
OPTICS = {"radial_distortion": 8.0, "field_distortion": 3.0}
WAIT = 60


@pytest.fixture
def lab(start_ioc, tmp_path):
    truth = str(tmp_path / "truth.jsonl")
    return Lab.over(start_ioc(seed=4, sensor=SENSOR, truth_log=truth, optics=OPTICS))


def true_lens(line) -> LensModel:
    field = Distortion(np.array(line["distortion"]), tuple(line["sensor"]))
    places = grid_places(SENSOR).reshape(-1, 2)
    return LensModel.from_shifts(places, field.shift(places[:, 0], places[:, 1]), SENSOR)


def test_tiles_become_a_lens_and_a_montage_is_corrected_with_it(lab, executor, recorder, tmp_path):
    folders = DataFolders(tmp_path)
    lenses = LensProcessor(
        executor, recorder, folders.lenses, folders.references, LensSettings(processor=SETTINGS)
    )
    # Maps of tiles would take most of the lens away.
    stiff = replace(SETTINGS, freedom="translation")
    processor = TileProcessor(executor, recorder, stiff, folders)
    session = Session()
    session.RE.subscribe(lenses)
    session.RE.subscribe(processor)
    lens_uid = session(lens_correction(lab.camera, lab.stage, lab.scope, (20.0, 10.0), settle=0.15))
    wait_until(lambda: recorder.stops, WAIT)
    (figures,) = recorder.table("lens")
    assert figures["accepted"], figures["reasons"]
    assert figures["residual_px_rms"] < 0.1

    truth = next(iter(lab.truth().values()))
    found = load_lens(lens_path(folders.lenses, lens_uid), SENSOR).model
    assert true_lens(truth).largest_shift > 3
    assert error(found, true_lens(truth)) < 0.1

    residuals = {}
    for name, references in (("raw", {}), ("corrected", {"lens": lens_uid})):
        roi = {"centre": (20.0, 10.0), "width": 4.8, "height": 4.8}
        taken = session(
            montage(
                *(lab.camera, lab.stage, lab.scope, roi),
                overlap=20.0,
                settle=0.15,
                references=references,
            )
        )
        assert processor.wait(WAIT)
        uid = next(s["uid"] for s in recorder.starts if s.get("raw_uid") == taken.uid)
        (summary,) = recorder.run(uid).table("montage")
        residuals[name] = summary["residual_px_median"]
    assert summary["matches_good"] == summary["matches"] == 12
    assert summary["lens_corrected"]
    assert processor.close(WAIT)
    recorder.check()
    assert residuals["corrected"] < 0.1
    assert residuals["corrected"] < residuals["raw"] / 3
