"""Benchmarks in both worlds: matches of known maps, and figures side by side."""

import json
import sys
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from benchmarks import _report
from benchmarks._maps import KnownMaps, along_edges
from benchmarks._report import Result, table_of_worlds
from benchmarks.growing_montage import Case
from simulation import MicroscopeSettings, VirtualMicroscope


def test_partners_show_the_same_places_as_the_maps_of_single_frames():
    settings = MicroscopeSettings.real().updated({"camera": {"sensor": [300, 300]}})
    microscope = VirtualMicroscope(settings)
    middles = np.array([[0.0, 0.0], [1.1, 0.05], [-0.02, -1.0]])
    maps = KnownMaps.of(microscope, middles)
    a, b = np.array([0, 0]), np.array([1, 2])
    pixels = np.random.default_rng(2).uniform(0, 299, (2, 6, 2))
    found = maps.partners(a, b, pixels)
    for k in range(2):
        here, there = (microscope.map_at(*middles[i], i + 1) for i in (a[k], b[k]))
        np.testing.assert_allclose(
            there.pixel_to_stage(found[k]), here.pixel_to_stage(pixels[k]), atol=1e-9
        )
    assert np.abs(found - pixels).max() > 100


def test_places_along_edges_lie_in_the_overlap_and_run_along_it():
    places = along_edges(np.array([[2.0, 90.0], [92.0, -1.0]]), 100, 5)
    np.testing.assert_allclose(places[0, :, 1], 49.5 + 45)
    np.testing.assert_allclose(np.ptp(places[0, :, 0]), 80)
    np.testing.assert_allclose(places[1, :, 0], 49.5 + 46)


def test_matches_of_the_kind_world_close_and_those_of_the_real_one_do_not():
    loops = {}
    for world in ("kind", "real"):
        case = Case.draw(world, 12, 0.0, seed=3)
        offsets = {
            tuple(pair): offset for pair, offset in zip(case.pairs, case.offsets, strict=True)
        }
        loops[world] = np.array(
            [
                offsets[k, k + 1] + offsets[k + 1, k + 13] - offsets[k, k + 12]
                - offsets[k + 12, k + 13]
                for k in range(131)
                if k % 12 < 11
            ]
        )  # fmt: skip
    assert np.abs(loops["kind"].mean(axis=0)).max() < 0.01
    assert np.linalg.norm(loops["real"], axis=1).mean() > 0.5
    assert np.linalg.norm(loops["real"], axis=1).max() < 15


def test_figures_of_both_worlds_stand_side_by_side():
    results = [
        Result("error", 0.1, "px", goal=0.3, world="kind"),
        Result("time", 5.0, "ms", "a copy", 2.0, world="kind"),
        Result("time", 5.0, "ms", "a peer", 10.0, world="kind"),
        Result("error", 0.7, "px", goal=0.3, world="real"),
    ]
    console = Console(width=100, file=StringIO())
    console.print(table_of_worlds(results))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert [line for line in lines if line] == [
        "kind real",
        "error 0.1 px (≤ 0.3 px ✓) 0.7 px (≤ 0.3 px ✗)",
        "time 5 ms",
        "a copy: 2 ms, 2.5 ×",
        "time 5 ms",
        "a peer: 10 ms, 0.5 ×",
    ]


@pytest.mark.parametrize(("chosen", "worlds"), [("both", ["kind", "real"]), ("real", ["real"])])
def test_the_command_line_chooses_worlds(chosen, worlds, monkeypatch, tmp_path, capsys):
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--world", chosen, "--quick", "--json", str(file)])
    asked = []

    def measure(quick, world):
        asked.append((quick, world))
        yield Result("figure", 1.0, "px")

    _report.run_in_worlds("bench", "A benchmark.", measure)
    assert asked == [(True, world) for world in worlds]
    assert [figure["world"] for figure in json.loads(file.read_text())] == worlds
    assert "figure" in capsys.readouterr().out
