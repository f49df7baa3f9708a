from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _faults, verdicts
from benchmarks._faults import STATED, STRENGTHS, Injected, choose_faults, is_stated
from processing.quality import FAULTS


def test_every_kind_of_fault_is_made_and_stated():
    others = {"failed_processing", "featureless"}  # are not of the acquisition
    assert set(STRENGTHS) == set(STATED) == set(verdicts.UNITS) == set(FAULTS) - others
    for name, strengths in STRENGTHS.items():
        assert STATED[name] in strengths


@pytest.mark.parametrize("seed", range(5))
def test_each_kind_comes_as_often(seed):
    faults = choose_faults(169, np.random.default_rng(seed))
    assert len(faults) == 169
    stated = Counter(fault.name for fault in faults if fault.name and is_stated(fault))
    lasting = {name: 2 * length for name, length in _faults.LASTING.items()}
    assert stated == dict.fromkeys(STRENGTHS, 4) | lasting


def test_faults_are_chosen_anew_for_each_seed():
    first, again, other = (choose_faults(169, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_too_small_a_montage_is_refused():
    with pytest.raises(ValueError, match="20 tiles are too few"):
        choose_faults(20, np.random.default_rng(0))


def test_a_dim_tile_is_the_stronger_fault_the_less_light_it_has():
    assert is_stated(Injected("dim", 0.2))
    assert not is_stated(Injected("dim", 0.6))
    assert not is_stated(Injected("drifted", 2.0))


def test_the_interval_is_wilsons():
    """E. B. Wilson, J. Am. Stat. Assoc. 22, 1927: 95 of 100 lie between 88.8 and 97.8 %."""
    assert verdicts._of(95, 100) == "95 of 100, 88.8–97.8 %"
    assert verdicts._of(0, 100) == "0 of 100, 0.0–3.7 %"


def test_default_run_has_enough_tiles_of_each_kind():
    faulted = sum(case.montages for case in verdicts.CASES if case.faults)
    assert faulted * _faults.STATED_RUNS >= 50
    assert sum(case.montages for case in verdicts.CASES) * verdicts.TILES**2 >= 1000


def test_what_a_montage_shows_is_judged(monkeypatch):
    """One small montage through the real chain, matching and rules, beside its truth."""
    monkeypatch.setattr(verdicts, "TILES", 8)
    taken = verdicts.take_montage(verdicts.CASES[0], 0, seed=1)
    judged = verdicts.judge_montage(taken)
    assert [fault for fault, _ in judged] == taken.faults
    stated = [(fault, verdict) for fault, verdict in judged if fault.name and is_stated(fault)]
    found = [fault.name in verdict.names.split(",") for fault, verdict in stated]
    assert len(found) == 40
    assert np.mean(found) >= 0.9
    good = [verdict for fault, verdict in judged if not fault.name]
    assert len(good) == 14
    assert sum(bool(verdict.harmful) for verdict in good) <= 1
    blind = replace(taken.limits, least_mean_relative=0.0, least_mean=0.0)
    missed = verdicts.judge_montage(replace(taken, limits=blind))
    assert not any("dim" in verdict.names for _, verdict in missed)
