"""How badly a section was cut: it is shorter along the cut, wavy, streaked, and has holes in it."""

import numpy as np
import pytest

from simulation import MicroscopeSettings, SectionSettings
from simulation.specimen import NeuropilSection, Tape

WELL_CUT = SectionSettings()


def cut(**faults):
    """The section of seed 1 with some faults enabled, and their settings."""
    enabled = {name: {"enabled": True, **settings} for name, settings in faults.items()}
    return NeuropilSection(seed=1, section=WELL_CUT.updated(enabled), chunk=128)


@pytest.fixture(scope="module")
def well_cut():
    return NeuropilSection(seed=1, chunk=128)


def direction_of_cut(section):
    """The direction of the cut in (x, y) upwards."""
    return np.array([section._cut[0], -section._cut[1]])


def test_a_section_that_was_cut_well_is_the_usual_one(well_cut):
    assert MicroscopeSettings.kind().section == WELL_CUT
    same = NeuropilSection(seed=1, section=WELL_CUT, chunk=128)
    np.testing.assert_array_equal(
        same.native_region(3, 4, 0.6, 0.6, 4).pixels,
        well_cut.native_region(3, 4, 0.6, 0.6, 4).pixels,
    )


def test_compression_brings_what_is_seen_nearer_along_the_cut(well_cut):
    squeezed = cut(compression={"amount": 0.2})
    along = direction_of_cut(squeezed)
    for direction, factor in ((along, 0.8), (along[::-1] * (1, -1), 1.0)):
        there = 30.0 * direction
        here = squeezed.region(*(factor * there), 96, 96, 16.0)
        reference = well_cut.region(*there, 96, 96, 16.0)
        # The same cells about the middle; farther out, they are squeezed.
        middle = (slice(40, 56), slice(40, 56))
        assert np.corrcoef(here[middle].ravel(), reference[middle].ravel())[0, 1] > 0.7
        assert here.mean() == pytest.approx(reference.mean(), rel=0.08)


def test_compressed_sections_have_no_seams_at_chunk_borders():
    pixels = cut(compression={"amount": 0.15}).native_region(0, 0, 3.2, 3.2, 4).pixels.astype(float)
    steps = np.abs(np.diff(pixels, axis=1)).mean(axis=0)
    border = np.array([k for k in range(len(steps)) if (k - 400 + 1) % 128 == 0])
    rest = np.setdiff1d(np.arange(len(steps)), border)
    error = steps[rest].std() / len(border) ** 0.5
    assert abs(steps[border].mean() - steps[rest].mean()) < 4 * error


def test_chatter_is_a_wave_along_the_cut_of_the_period_that_is_set(well_cut):
    wavy = cut(knife_marks={"chatter": 0.3, "period": 0.5, "streaks": 1.0})
    side, pixel = 256, 8.0
    darker = np.log(well_cut.region(5, 5, side, side, pixel)) - np.log(
        wavy.region(5, 5, side, side, pixel)
    )
    power = np.abs(np.fft.fft2(darker * np.outer(np.hanning(side), np.hanning(side))))
    row, column = np.unravel_index(np.argmax(power[: side // 2]), power[: side // 2].shape)
    frequency = np.array([np.fft.fftfreq(side)[column], -np.fft.fftfreq(side)[row]]) / pixel * 1000
    assert np.linalg.norm(frequency) == pytest.approx(1 / 0.5, rel=0.08)
    assert abs(frequency @ direction_of_cut(wavy)) == pytest.approx(1 / 0.5, rel=0.08)


def test_streaks_run_along_the_cut_and_are_as_much_stronger_as_is_set(well_cut):
    place = (5, 5, 512, 512, 64.0)
    usual = {"chatter": 0.02, "period": 1.3}
    reference = np.log(well_cut.region(*place))
    thicker = []
    for streaks in (11.0, 21.0):  # far above the rounding to 255 levels
        streaked = cut(knife_marks={"streaks": streaks, **usual}).region(*place)
        thicker.append(np.log(streaked) / reference - 1)
    assert np.sum(thicker[1] * thicker[0]) / np.sum(thicker[0] ** 2) == pytest.approx(2, rel=0.15)
    rows, columns = np.gradient(thicker[1])
    along, across = direction_of_cut(well_cut), direction_of_cut(well_cut)[::-1] * (1, -1)
    changes = [np.abs(columns * to[0] - rows * to[1]).mean() for to in (along, across)]
    assert changes[0] < 0.7 * changes[1]


def test_vessels_are_bare_resin_in_tissue_and_listed():
    section = cut(bare_resin={"spacing": 30.0, "size": 12.0})
    vessels = [feature for feature in section.features() if feature.kind == "vessel"]
    assert len(vessels) == (600 // 30) ** 2
    near = sorted(vessels, key=lambda feature: np.hypot(feature.x, feature.y))[:4]
    assert np.hypot(near[0].x, near[0].y) < 30
    for vessel in near:
        box = section.region(vessel.x, vessel.y, 64, 64, 2 * vessel.length / 64 * 1000)
        assert 0.85 < box[30:34, 30:34].mean() < 0.93
        assert box[:3].mean() < 0.78


def test_the_sections_of_a_tape_are_cut_alike():
    tape = Tape(2, section=MicroscopeSettings.real().section, seed=4)
    kinds = {feature.kind for feature in tape.specimen(1).section.features()}
    assert "vessel" in kinds
    tape.close()
