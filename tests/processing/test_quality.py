from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.quality import FAULTS, HARMLESS, Agreement, Judge, Steering, Thresholds

GOOD = {
    "error": "",
    "mean": 7000.0,
    "std": 900.0,
    "saturated": 0.0,
    "beam_edge": 0.0,
    "obstructed": 0.0,
    "focus": 0.6,
    "focus_sd": 0.01,
    "astigmatism": 0.0,
    "drift_px": 0.0,
    "drift_angle": 0.0,
    "motion": 0.5,
    "snr": 4.0,
    "textured": True,
    "textured_share": 1.0,
}
BLURRED = {"astigmatism": 0.6, "drift_px": 3.0, "focus": 0.4}
SIDES = ("top", "bottom", "left", "right")
COLUMNS = 5


def tile(index, attempt=1, columns=COLUMNS, **changed):
    """Data of a tile of a raster; its focus is the same on all sides unless they are given."""
    data = {**GOOD, **changed}
    sides = {f"focus_{side}": data["focus"] for side in SIDES}
    place = {"tile_row": index // columns, "tile_column": index % columns}
    return {"tile_index": index, "tile_attempt": attempt, **place, **sides, **data}


def match(a, b, good=True, reason="", off=0.0):
    nominal = (0.0, 200.0) if b == a + 1 else (200.0, 0.0)
    return {
        "tile_a": a, "tile_b": b, "attempt_a": 1, "attempt_b": 1, "good": good, "reason": reason,
        "nominal_drow": nominal[0], "nominal_dcol": nominal[1],
        "drow": nominal[0] + off, "dcol": nominal[1],
    }  # fmt: skip


def agreement(**figures):
    """A montage that all matches agree with, but for what is told."""
    usual = dict.fromkeys(("median", "p95", "largest", "closing_p95", "closing_largest"), 0.4)
    counts = {"tiles": 25, "matches": 40, "rejected": 0, "unplaced": 0, "islands": 0}
    return Agreement(**(counts | usual | figures))


def judge_of(n_good, **limits):
    judge = Judge(Thresholds(**limits), 25)
    for index in range(n_good):
        assert judge.tile(tile(index)).verdict == "pass"
    return judge


@pytest.mark.parametrize(
    ("changed", "faults"),
    [
        ({}, ""),
        ({"error": "FrameError: gone", "mean": float("nan")}, "failed_processing"),
        ({"mean": 40.0}, "dim"),
        ({"mean": 3400.0}, "dim"),  # under half of the median
        ({"mean": 3600.0}, ""),
        ({"saturated": 0.02}, "saturated"),
        ({"beam_edge": 0.1}, "beam_edge"),
        ({"obstructed": 0.3}, "obstructed"),
        ({"focus": 0.005}, "out_of_focus"),
        ({"focus": 0.42}, "out_of_focus"),  # 0.42 / 0.58, under 0.62 of its neighbours' 0.6 / 0.4
        ({"focus": 0.52}, ""),
        ({"focus": 0.35, "focus_sd": 0.2}, ""),  # that may be noise
        ({**BLURRED, "motion": 0.0}, "astigmatic"),
        ({**BLURRED, "motion": 0.9}, "drifted"),
        ({**BLURRED, "focus": 0.6}, ""),  # the neighbours see that direction as well
        ({"astigmatism": 0.1, "drift_px": 1.9, "motion": 0.9}, ""),
        ({"textured": False, "focus": 0.0, "astigmatism": 0.0}, "featureless"),
        ({"mean": 1.0, "focus": 0.0, "saturated": 0.5}, "dim,saturated"),
    ],
)
def test_faults_have_names(changed, faults):
    verdict = judge_of(6).tile(tile(6, **changed))
    assert verdict.names == faults
    assert set(verdict.names.split(",")) - {""} <= set(FAULTS)
    assert verdict.verdict == ("fail" if {f.name for f in verdict.faults} - HARMLESS else "pass")
    for fault in verdict.faults:
        assert 0 <= fault.severity <= 1
        assert 0 < fault.confidence <= 1


@pytest.mark.parametrize(
    ("usual", "n_good", "masked", "faults"),
    [
        (0.2, 6, 0.23, ""),
        (0.2, 6, 0.27, "obstructed"),  # a part of the frame did not arrive
        (0.0, 6, 0.04, ""),
        (0.0, 6, 0.06, "obstructed"),
        (0.2, 0, 0.22, ""),  # as a round aperture leaves of a square
        (0.2, 0, 0.35, "obstructed"),
    ],
)
def test_a_mask_is_a_fault_only_where_others_have_less(usual, n_good, masked, faults):
    judge = Judge(Thresholds(), 25)
    for index in range(n_good):
        assert judge.tile(tile(index, masked=usual)).verdict == "pass"
    assert judge.tile(tile(n_good, masked=masked)).names == faults


def test_without_a_median_only_absolute_limits_hold():
    judge = Judge(Thresholds(), 25)
    assert judge.tile(tile(0, mean=60.0, focus=0.06)).verdict == "pass"


def test_a_step_that_was_left_out_is_not_judged():
    data = tile(0)
    for figure in set(GOOD) - {"error"}:
        del data[figure]
    assert judge_of(6).tile(data | {"tile_index": 6, "tile_row": 1}).verdict == "pass"


def test_other_texture_is_no_defocus():
    """A place with less fine detail: the neighbours see the same in what they share with it."""
    judge = judge_of(6)
    assert judge.tile(tile(6, focus=0.25, focus_left=0.58, focus_top=0.55)).verdict == "pass"


def test_a_tile_without_neighbours_is_compared_with_the_median():
    judge = judge_of(5)
    lonely = tile(12, focus=0.3)
    verdict = judge.tile(lonely)
    assert verdict.names == "out_of_focus"
    assert verdict.faults[0].limit == pytest.approx(0.6 * 0.6)


def test_limits_refuse_nonsense():
    with pytest.raises(ValueError, match="least_focus is -1"):
        Thresholds(least_focus=-1)
    with pytest.raises(ValueError, match="most_drift is nan"):
        Thresholds(most_drift=float("nan"))


def test_a_fault_that_stays_is_persistent_and_without_light_critical():
    judge = judge_of(5)
    scopes = [judge.tile(tile(5 + i, mean=100.0)).faults[0].scope for i in range(9)]
    assert scopes == ["transient"] * 2 + ["persistent"] * 5 + ["critical"] * 2


def test_a_retake_replaces_the_take_before():
    judge = judge_of(5)
    assert judge.tile(tile(5, focus=0.01)).verdict == "fail"
    assert judge.tile(tile(5, attempt=2)).verdict == "pass"
    assert judge.tile(tile(5, focus=0.01)).verdict == "fail"  # the first take, done late
    assert judge.verdicts()[5].verdict == "pass"


def test_a_moved_tile_is_blamed_and_its_neighbours_are_not():
    judge = judge_of(15)
    found = []
    for a, b in ((5, 6), (6, 7), (1, 6), (6, 11)):
        found += judge.match(match(a, b, good=False, reason="low correlation"))
    for a, b in ((0, 5), (5, 10), (0, 1), (1, 2), (7, 8), (2, 7), (10, 11), (11, 12)):
        found += judge.match(match(a, b))
    assert [(index, fault.name) for index, fault in found] == [(6, "no_match")]
    assert [i for i, verdict in judge.verdicts().items() if verdict.verdict == "fail"] == [6]


def test_a_tile_that_shows_another_place_is_not_compared_with_its_neighbours():
    judge = judge_of(15)
    judge.tile(tile(6, attempt=2, focus=0.4))
    assert judge.verdicts()[6].names == "out_of_focus"
    for a, b in ((5, 6), (6, 7), (1, 6), (6, 11)):
        found = match(a, b, good=False, reason="low correlation")
        judge.match({**found, f"attempt_{'a' if a == 6 else 'b'}": 2})
    assert judge.verdicts()[6].names == "no_match"


@pytest.mark.parametrize("its_matches", [True, False])
def test_a_faulted_neighbour_bears_witness_if_others_match_it(its_matches):
    judge = judge_of(15)
    judge.tile(tile(7, attempt=2, obstructed=0.3))
    judge.match({**match(7, 8, good=its_matches, reason="low correlation"), "attempt_a": 2})
    bad = {"good": False, "reason": "low correlation"}
    judge.match({**match(6, 7, **bad), "attempt_b": 2})
    judge.match(match(5, 6, **bad))
    assert judge.verdicts()[6].names == ("no_match" if its_matches else "")


def test_no_match_on_resin_is_harmless():
    judge = judge_of(15)
    for a, b in ((5, 6), (6, 7), (1, 6), (6, 11)):
        assert judge.match(match(a, b, good=False, reason="no texture")) == []
    assert judge.verdicts()[6].verdict == "pass"


def test_a_good_match_clears_a_tile():
    judge = judge_of(15)
    for a, b in ((5, 6), (6, 7)):
        judge.match(match(a, b, good=False, reason="ambiguous"))
    assert judge.verdicts()[6].names == "no_match"
    judge.match(match(1, 6))
    assert judge.verdicts()[6].verdict == "pass"


def test_a_tile_too_far_off_is_named():
    judge = judge_of(15)
    found = []
    for a, b, off in ((5, 6, 260.0), (0, 5, 3.0), (5, 10, -2.0), (1, 6, 258.0), (6, 7, -255.0)):
        found += judge.match(match(a, b, off=off))
    assert [(index, fault.name) for index, fault in found] == [(6, "offset_beyond_limit")]
    assert found[0][1].value == 260
    assert found[0][1].limit == Thresholds().most_offset


@settings(max_examples=60, deadline=None)
@given(
    tile=st.integers(0, 24),
    off=st.floats(270.0, 400.0),
    order=st.permutations(
        [(i, i + 1) for i in range(24) if i % 5 < 4] + [(i, i + 5) for i in range(20)]
    ),
)
def test_who_is_too_far_off_does_not_depend_on_the_order_of_the_matches(tile, off, order):
    judge = judge_of(25)
    for a, b in order:
        judge.match(match(a, b, off=off if tile in (a, b) else 4.0))
    failed = {i: verdict.names for i, verdict in judge.verdicts().items() if verdict.names}
    assert failed == {tile: "offset_beyond_limit"}


def test_a_good_montage_is_go():
    judge = judge_of(25)
    for a, b in ((0, 1), (1, 2), (2, 3), (0, 5)):
        judge.match(match(a, b))
    decision = judge.montage(agreement())
    assert decision.go
    assert decision.reasons == ()


def test_what_makes_a_montage_no_go_is_said():
    judge = Judge(Thresholds(), 20)
    for index in range(18):
        judge.tile(tile(index, std=50.0, saturated=0.5 if index < 4 else 0.0))
    judge.match(match(0, 1, good=False, reason="ambiguous"))
    decision = judge.montage(agreement(median=7.5))
    assert not decision.go
    reasons = "; ".join(decision.reasons)
    assert "2 of 20 tiles are missing" in reasons
    assert "4 of 20 tiles fail" in reasons
    assert "1 of 1 textured pairs have no match" in reasons
    assert "contrast" in reasons
    assert "the median disagreement of neighbours is 7.5 px, over 5 px" in reasons


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"matches": 0}, "no two tiles match"),
        ({"closing_p95": 9.0}, "on loops that close, 95 %, is 9 px, over 8 px"),
        ({"closing_largest": 615.0}, "largest disagreement .* that close is 615 px, over 12 px"),
        ({"rejected": 10}, "share rejected is 0.25, over 0.1"),
        ({"unplaced": 4}, "share placed by no match is 0.16, over 0.1"),
    ],
)
def test_a_solution_that_does_not_agree_with_its_matches_is_no_go(figures, reason):
    """Also if the matches that the solver kept fit perfectly: those that it left out count."""
    decision = judge_of(25).montage(agreement(**figures))
    assert not decision.go
    assert re.search(reason, "; ".join(decision.reasons))


def test_a_single_tile_needs_no_match():
    judge = Judge(Thresholds(), 1)
    judge.tile(tile(0))
    assert judge.montage(agreement(tiles=1, matches=0)).go


def steered(judge, steering, data):
    """Judge a tile and publish it to the steering, as the documents do."""
    verdict = judge.tile(data)
    place = {key: data[key] for key in ("tile_index", "tile_attempt")}
    steering.tile({**data, "verdict": verdict.verdict, "faults": verdict.names})
    for fault in verdict.faults:
        told = {"fault": fault.name, "severity": fault.severity, "scope": fault.scope}
        steering.fault({**place, **told})


@pytest.fixture
def steering():
    return Steering(Thresholds(), 200)


@pytest.fixture
def judge():
    return Judge(Thresholds(), 200)


def test_all_well_is_good(judge, steering):
    for index in range(20):
        steered(judge, steering, tile(index))
        assert steering.advice().decision == "good"


def test_a_tile_that_fails_is_to_be_taken_again_until_it_is_good(judge, steering):
    for index in range(6):
        steered(judge, steering, tile(index, saturated=0.2 if index == 3 else 0.0))
    advice = steering.advice()
    assert (advice.decision, advice.retake) == ("retake", (3,))
    assert "saturated" in advice.reason
    steered(judge, steering, tile(3, attempt=2))
    assert steering.advice().decision == "good"


def test_no_light_stops_the_run_at_once(judge, steering):
    for index in range(5):
        steered(judge, steering, tile(index))
    decisions = []
    for index in range(5, 13):
        steered(judge, steering, tile(index, mean=2.0))
        decisions.append(steering.advice().decision)
    assert decisions == ["retake"] * 7 + ["stop_now"]
    assert "dim" in steering.advice().reason


def test_too_many_bad_tiles_stop_the_run_at_its_end(judge, steering):
    for index in range(60):
        steered(judge, steering, tile(index, saturated=0.2 if index % 2 else 0.0))
    advice = steering.advice()
    assert advice.decision == "stop_at_end"
    assert advice.reason == "30 tiles of 200 fail, over 20"


def test_a_falling_focus_asks_for_autofocus_once(judge, steering):
    asked = []
    for index in range(50):
        steered(judge, steering, tile(index, columns=200, focus=0.6 - 0.008 * max(0, index - 10)))
        asked.append(steering.advice(behind=3).refocus)
    first = asked.index(True)
    assert 15 < first < 40
    # The three tiles behind were taken before the new focus, and six must show it again.
    assert not any(asked[first + 1 : first + 9])


def test_blurred_tiles_in_a_row_ask_for_autofocus(judge, steering):
    for index in range(6):
        steered(judge, steering, tile(index))
    refocus = []
    for index in range(6, 9):
        steered(judge, steering, tile(index, focus=0.01))
        refocus.append(steering.advice().refocus)
    assert refocus == [False, False, True]


def judged_in_order(order, tiles):
    """Judge a whole montage in some order, each match once both of its tiles are there."""
    judge = Judge(Thresholds(), len(tiles))
    there = set()
    for index in order:
        judge.tile(tiles[index])
        there.add(index)
        for step, is_neighbour in ((1, index % COLUMNS < COLUMNS - 1), (COLUMNS, True)):
            if is_neighbour and index + step in there:
                judge.match(match(index, index + step))
        for step, is_neighbour in ((1, index % COLUMNS > 0), (COLUMNS, index >= COLUMNS)):
            if is_neighbour and index - step in there:
                judge.match(match(index - step, index))
    return {index: verdict.names for index, verdict in judge.verdicts().items()}


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(25)),
    bad=st.dictionaries(st.integers(0, 24), st.sampled_from(["dim", "out_of_focus"]), max_size=4),
)
def test_the_order_of_the_tiles_counts_only_until_medians_are_known(order, bad):
    changes = {"dim": {"mean": 2000.0}, "out_of_focus": {"focus": 0.2}}
    tiles = {i: tile(i, **changes[bad[i]]) if i in bad else tile(i) for i in range(25)}
    found = judged_in_order(order, tiles)
    warm_up = set(order[: Thresholds().least_tiles + len(bad)])
    for index in set(range(25)) - warm_up:
        assert found[index] == bad.get(index, "")
    for index in warm_up:
        assert found[index] in {"", bad.get(index, "")}


@settings(max_examples=40, deadline=None)
@given(gain=st.floats(0.1, 5.0), mean=st.floats(1000.0, 9000.0), focus=st.floats(0.05, 0.9))
def test_verdicts_do_not_depend_on_the_gain(gain, mean, focus):
    def verdict(factor):
        judge = Judge(Thresholds(), 25)
        for index in range(6):
            judge.tile(tile(index, mean=7000.0 * factor, std=900.0 * factor))
        return judge.tile(tile(6, mean=mean * factor, std=900.0 * factor, focus=focus)).names

    assert verdict(gain) == verdict(1.0)


def blurred_to(score, share):
    """Give the score that is left when a blur leaves a share of the fine detail."""
    return share * score / (share * score + 1 - score)


@settings(max_examples=60, deadline=None)
@given(score=st.floats(0.1, 0.95), share=st.floats(0.3, 1.0).filter(lambda x: abs(x - 0.62) > 0.01))
def test_the_same_blur_is_out_of_focus_whatever_the_specimen(score, share):
    judge = Judge(Thresholds(), 25)
    for index in range(6):
        judge.tile(tile(index, focus=score))
    verdict = judge.tile(tile(6, focus=blurred_to(score, share), focus_sd=0.0))
    assert verdict.names == ("out_of_focus" if share < Thresholds().least_focus_neighbour else "")


@settings(max_examples=60, deadline=None)
@given(
    score=st.floats(0.1, 0.95),
    share=st.floats(0.3, 1.5).filter(lambda x: abs(x - 0.9) > 0.01),
    motion=st.floats(0.0, 1.0),
)
def test_blur_along_a_direction_takes_detail_that_neighbours_have(score, share, motion):
    judge = Judge(Thresholds(), 25)
    for index in range(6):
        judge.tile(tile(index, focus=score))
    changed = {**BLURRED, "motion": motion, "focus": blurred_to(score, share)}
    verdict = judge.tile(tile(6, **changed))
    assert verdict.names in ({"drifted", "astigmatic"} if share < 0.9 else {""})


def test_blur_that_neighbours_deny_comes_back_once_others_bear_it_out():
    judge = judge_of(6)
    moving = tile(6, **BLURRED, motion=0.9) | {"focus_left": 0.6, "focus_top": 0.6}
    assert judge.tile(moving).names == ""
    judge.match(match(5, 6))
    assert judge.verdicts()[6].names == ""
    told = judge.match(match(1, 6, good=False, reason="low correlation"))  # shows another place
    assert [(index, fault.name) for index, fault in told] == [(6, "drifted")]  # one may err
    judge.tile(tile(7))
    judge.tile(tile(11))
    judge.match(match(6, 7))
    judge.match(match(6, 11))
    assert judge.verdicts()[6].names == "drifted"


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2).map(sorted))
def test_a_lower_score_is_never_judged_better(scores):
    worse, better = (judge_of(6).tile(tile(6, focus=score)) for score in scores)
    assert worse.severity >= better.severity


def test_blur_that_the_next_tile_has_too_is_the_lens():
    """Also across: the line foci on the two sides of the focus lie across each other."""
    judge = judge_of(6)
    blurred = {**BLURRED, "motion": 0.6}
    assert judge.tile(tile(6, **blurred, drift_angle=20.0)).names == "drifted"
    assert judge.tile(tile(7, **blurred, drift_angle=113.0)).names == "astigmatic"
    told = judge.match(match(6, 7))
    assert [(index, fault.name, fault.scope) for index, fault in told] == [
        (6, "astigmatic", "persistent")
    ]
    assert judge.verdicts()[6].names == "astigmatic"
    assert judge.tile(tile(8, **blurred, drift_angle=65.0)).names == "drifted"


def test_a_lens_that_the_next_tile_does_not_show_was_a_drift():
    judge = judge_of(6)
    assert judge.tile(tile(6, **BLURRED, motion=0.0)).names == "astigmatic"
    judge.tile(tile(7, mean=2000.0))  # dim: its spectrum tells nothing of the lens
    assert judge.verdicts()[6].names == "astigmatic"
    judge.tile(tile(8))
    assert judge.verdicts()[6].names == "astigmatic"
    assert judge.tile(tile(9, **BLURRED, motion=0.0)).names == "astigmatic"
    judge.tile(tile(14))
    told = judge.match(match(9, 14))
    assert [(index, fault.name, fault.value) for index, fault in told] == [(9, "drifted", 3.0)]


@settings(max_examples=60, deadline=None)
@given(motions=st.lists(st.floats(0.0, 0.8), min_size=2, max_size=4), angle=st.floats(0.0, 180.0))
def test_blur_of_tiles_in_a_row_is_the_lens_unless_all_shapes_are_motions(motions, angle):
    judge = judge_of(5)
    for number, motion in enumerate(motions):
        turned = {"drift_angle": (angle + 90 * (number % 2)) % 180, "motion": motion}
        judge.tile(tile(5 + number, **BLURRED, **turned))
    judge.tile(tile(5 + len(motions)))
    names = [judge.verdicts()[5 + number].names for number in range(len(motions))]
    assert names == ["astigmatic"] * len(motions)


def test_two_clear_motions_along_one_direction_are_two_drifts():
    judge = judge_of(5)
    for index in (5, 6):
        judge.tile(tile(index, **BLURRED, motion=0.95, drift_angle=30.0))
    judge.tile(tile(7))
    assert [judge.verdicts()[index].names for index in (5, 6)] == ["drifted", "drifted"]


@settings(max_examples=60, deadline=None)
@given(beside=st.floats(0.3, 1.2), whole=st.floats(0.1, 1.2))
def test_defocus_shows_in_the_overlaps_and_in_the_whole_tile(beside, whole):
    judge = judge_of(6)
    sides = {f"focus_{side}": blurred_to(0.6, beside) for side in SIDES}
    names = judge.tile(tile(6, focus=blurred_to(0.6, whole), focus_sd=0.0, **sides)).names
    share, limit = (beside * whole) ** 0.5, Thresholds().least_focus_neighbour
    if abs(share - limit) > 0.01 and abs(beside - 0.8) > 0.01:
        assert names == ("out_of_focus" if share < limit and beside < 0.8 else "")


def test_a_neighbour_without_texture_is_not_compared_with():
    judge = judge_of(1)
    judge.tile(tile(1, textured=False, focus_left=0.9, focus_right=0.9))
    judge.tile(tile(2, focus=0.4))
    assert judge.verdicts()[2].verdict == "pass"


@pytest.mark.parametrize(
    ("times", "names"), [(1.0, "out_of_focus"), (0.5, "out_of_focus"), (0.3, ""), (2.5, "")]
)
def test_sharpness_is_compared_only_where_neighbours_show_as_much(times, names):
    """Where resin begins, fine over coarse detail tells of the specimen and not of the lens."""
    keys = ("coarse", *(f"coarse_{side}" for side in SIDES))
    judge = Judge(Thresholds(), 25)
    for index in range(6):
        judge.tile(tile(index, **dict.fromkeys(keys, 200.0)))
    blurred = tile(6, focus=0.4, focus_sd=0.0, **dict.fromkeys(keys, 200.0 * times))
    assert judge.tile(blurred).names == names


def test_a_blur_that_takes_coarse_detail_leaves_none_that_is_fine():
    keys = ("coarse", *(f"coarse_{side}" for side in SIDES))
    judge = Judge(Thresholds(), 25)
    for index in range(6):
        judge.tile(tile(index, **dict.fromkeys(keys, 200.0)))
    blurred = tile(6, focus=0.013, focus_sd=0.017, **dict.fromkeys(keys, 50.0))
    assert judge.tile(blurred).names == "out_of_focus"


def test_the_first_tiles_are_looked_at_again_once_there_is_a_median():
    judge = Judge(Thresholds(), 25)
    assert judge.tile(tile(0, mean=2000.0)).verdict == "pass"  # nothing to compare it with
    for index in range(1, 6):
        judge.tile(tile(index))
    assert [(index, fault.name) for index, fault in judge.match(match(0, 5))] == [(0, "dim")]
    assert judge.verdicts()[0].verdict == "fail"
