"""Focus: the fit by itself, then series and autofocus on the simulated microscope."""

from __future__ import annotations

import numpy as np
import pytest

from plans import FocusError, autofocus, focus_series, montage, snap
from plans.fit import fit_focus
from tests.devices.lab import Lab, Session, check_documents
from tests.support import wait_until

ROI = {"centre": (0, 0), "width": 0.9, "height": 0.9}  # 2 × 2 tiles
STEPS = 9  # with these and the exposure below, a weak peak is never taken for noise
TOLERANCE = 1.0  # µm, a tenth of the depth in which this specimen looks sharp


def curve(defocus, best: float, width: float = 5.0, floor: float = 1.0, height: float = 4.0):
    return floor + height / (1 + ((np.asarray(defocus) - best) / width) ** 2)


def true_defocus(lab: Lab, session: Session) -> float:
    """The defocus that the simulator knows of, where the microscope stands now."""
    lab.camera.cam.acquire_time.set(0.01).wait(10)
    frame = session(snap(lab.camera, lab.scope)).frame_number
    return wait_until(lambda: lab.truth().get(frame), 10, "the truth of the frame")["defocus"]


class TestFit:
    x = np.linspace(-10, 10, 9)

    @pytest.mark.parametrize("best", [-6.3, -1.1, 0, 2.5, 6.2])
    def test_a_clean_peak_is_found_to_a_fiftieth_of_a_step(self, best: float):
        found = fit_focus(self.x, curve(self.x, best))
        assert found.good
        assert found.best == pytest.approx(best, abs=0.05)
        assert found.quality > 0.85

    @pytest.mark.parametrize("seed", range(10))
    def test_noise_of_three_percent_moves_it_by_less_than_a_quarter_of_a_step(self, seed: int):
        rng = np.random.default_rng(seed)
        y = curve(self.x, 1.7) * rng.normal(1, 0.03, self.x.size)
        found = fit_focus(self.x, y)
        assert found.good
        assert found.best == pytest.approx(1.7, abs=0.6)
        assert 0.6 < found.quality < 1

    @pytest.mark.parametrize("place", range(9))
    @pytest.mark.parametrize("factor", [0.05, 3.0])
    def test_one_frame_that_is_off_does_not_carry_it_away(self, place: int, factor: float):
        rng = np.random.default_rng(place)
        y = curve(self.x, 1.7) * rng.normal(1, 0.005, self.x.size)
        y[place] *= factor
        found = fit_focus(self.x, y)
        assert found.good
        assert found.best == pytest.approx(1.7, abs=0.5)

    def test_frames_without_a_sharpness_are_left_out(self):
        y = curve(self.x, 1.7)
        y[[1, 7]] = np.nan, 0
        assert fit_focus(self.x, y).best == pytest.approx(1.7, abs=0.1)

    def test_the_order_does_not_matter(self):
        order = np.random.default_rng(0).permutation(self.x.size)
        y = curve(self.x, 1.7)
        assert fit_focus(self.x[order], y[order]) == fit_focus(self.x, y)

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_the_scale_does_not_matter(self, scale: float):
        found = fit_focus(self.x, scale * curve(self.x, 1.7))
        assert found.best == pytest.approx(1.7, abs=0.05)

    def test_a_flat_series_is_flat(self):
        rng = np.random.default_rng(0)
        found = fit_focus(self.x, rng.normal(1, 0.002, self.x.size))
        assert (found.problem, found.quality) == ("flat", 0)

    @pytest.mark.parametrize("best", [-25.0, 25.0])
    def test_a_peak_beyond_the_range_is_at_the_edge(self, best: float):
        found = fit_focus(self.x, curve(self.x, best, width=10))
        assert found.problem == "edge"
        assert found.best == np.sign(best) * 10, "where to go on"

    def test_noise_alone_is_seldom_taken_for_a_focus(self):
        rng = np.random.default_rng(0)
        good = [fit_focus(self.x, rng.lognormal(0, 0.3, self.x.size)).good for _ in range(40)]
        assert sum(good) <= 8

    def test_too_few_frames_are_too_few(self):
        assert fit_focus([0, 1, 2, 3, 4], [1, 2, 3, 2, 1]).problem == "few"
        assert fit_focus([], []).problem == "few"


def test_a_series_measures_sharpness_and_goes_back(lab: Lab, session: Session):
    lab.scope.defocus.set(3.0).wait(10)
    found = session(focus_series(lab.camera, lab.scope, centre=-4, focus_range=40, steps=9))
    check_documents(session.documents)
    events = session.events()
    assert found.uid == session.one("start")["uid"]
    np.testing.assert_allclose(found.defocus, np.linspace(-24, 16, 9))
    np.testing.assert_allclose(
        [event["scope_defocus"] for event in events], found.defocus, atol=1e-3
    )
    np.testing.assert_allclose(
        [event["camera_stats1_sharpness"] for event in events], found.sharpness
    )
    sharpest = found.defocus[int(np.argmax(found.sharpness))]
    assert abs(sharpest - (3.0 - true_defocus(lab, session))) <= 5, "the peak is at focus"
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(3.0, abs=1e-3)
    assert lab.is_safe()


@pytest.mark.parametrize("start", [0.0, -14.0, 22.0])
def test_autofocus_finds_the_focus_and_sets_it(lab: Lab, session: Session, start: float):
    lab.scope.defocus.set(start).wait(10)
    found = session(autofocus(lab.camera, lab.scope, exposure=0.03))
    check_documents(session.documents)
    assert found.quality > 0.8
    assert found.uid == session.one("start")["uid"]
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(found.defocus, abs=1e-3)
    (fit,) = session.events("autofocus")
    assert fit["autofocus_succeeded"] == 1
    assert fit["autofocus_defocus"] == pytest.approx(found.defocus)
    assert lab.is_safe()
    assert abs(true_defocus(lab, session)) < TOLERANCE


def test_autofocus_too_far_off_fails_and_goes_back(lab: Lab, session: Session):
    lab.scope.defocus.set(120).wait(10)
    with pytest.raises(FocusError, match=r"no focus found from .* to .* µm .*back at 120"):
        session(autofocus(lab.camera, lab.scope, expansions=1))
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(120, abs=1e-3)
    (fit,) = session.events("autofocus")
    assert (fit["autofocus_succeeded"], fit["autofocus_quality"]) == (0, 0)
    assert fit["autofocus_reason"]
    assert session.one("stop")["exit_status"] == "fail"
    assert lab.is_safe()


def test_autofocus_with_nothing_to_see_fails_and_goes_back(lab: Lab, session: Session):
    lab.fault("BeamDrop", 100)
    with pytest.raises(FocusError, match=r"no focus found from -10 to .* back at 0 µm"):
        session(autofocus(lab.camera, lab.scope))
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(0, abs=1e-3)
    assert lab.is_safe()


def take(lab: Lab, focus, **options):
    options = {"settle": 0.05, "focus_range": 30, "focus_steps": STEPS, "exposure": 0.06, **options}
    return montage(lab.camera, lab.stage, lab.scope, ROI, focus=focus, **options)


@pytest.mark.parametrize(
    ("policy", "tiles"), [("none", []), ("once", [0]), ("row", [0, 2]), (3, [0, 3])]
)
def test_focus_policies(lab: Lab, session: Session, policy, tiles: list[int]):
    session(take(lab, policy))
    check_documents(session.documents)
    fits = session.events("autofocus")
    assert [fit["autofocus_tile"] for fit in fits] == tiles
    assert all(fit["autofocus_succeeded"] for fit in fits)
    series, over = divmod(len(session.events("focus")), STEPS)
    assert over == 0
    assert len(tiles) <= series <= 2 * len(tiles), "noise may hide a peak, once"
    events = session.events()
    assert [event["tile_index"] for event in events] == list(range(4))
    for fit, following in zip(fits, [*tiles[1:], 4], strict=False):
        for event in events[fit["autofocus_tile"] : following]:
            assert event["scope_defocus"] == pytest.approx(fit["autofocus_defocus"], abs=1e-3)


def test_frames_for_focus_are_taken_at_the_tile(lab: Lab, session: Session):
    session(take(lab, "row"))
    for event in session.events("focus"):
        assert event["stage_x"] == pytest.approx(event["tile_x"], abs=0.1)
        assert event["stage_y"] == pytest.approx(event["tile_y"], abs=0.1)


def test_a_failed_autofocus_is_recorded_and_the_montage_goes_on(lab: Lab, session: Session):
    """The first focus is good, the second sees no beam: the last good one is kept."""
    session.RE.msg_hook = lambda message: (
        lab.fault("BeamDrop", 1000)
        if message.command == "set"
        and message.obj is lab.scope.defocus
        and len(session.events()) == 2
        and len(session.events("focus")) == STEPS
        else None
    )
    session(take(lab, "row"))
    check_documents(session.documents)
    first, second = session.events("autofocus")
    assert (first["autofocus_succeeded"], second["autofocus_succeeded"]) == (1, 0)
    assert second["autofocus_reason"]
    assert second["autofocus_defocus"] == first["autofocus_defocus"]
    assert len(session.events()) == 4
    assert session.events()[-1]["scope_defocus"] == pytest.approx(
        first["autofocus_defocus"], abs=1e-3
    )
    assert session.one("stop")["exit_status"] == "success"
