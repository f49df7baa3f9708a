"""The tape: apertures from 1, opaque round them, a known section in each, made when asked for."""

import numpy as np
import pytest

from simulation.specimen import NeuropilSection, PointGrid, Tape


def small_section(seed):
    return NeuropilSection(seed, size_um=(60.0, 40.0), chunk=128, cache_bytes=2**24)


@pytest.fixture(scope="module")
def tape():
    tape = Tape(5, small_section, aperture_um=(120.0, 90.0), pitch=400.0, seed=7)
    yield tape
    tape.close()


def test_apertures_are_numbered_from_1(tape):
    assert tape.count == len(tape) == 5
    assert tape.place(1) == 0
    assert tape.place(4) == 3 * 400.0
    for index in (0, 6, -1):
        with pytest.raises(IndexError, match="1 to 5"):
            tape.specimen(index)


def test_default_apertures_are_those_of_gridtape():
    tape = Tape()
    assert tape.aperture_um == (2000.0, 1500.0)
    specimen = tape.specimen(3)
    for x, y, opaque in ((0, 0, False), (990, 0, False), (0, -740, False), (1010, 0, True),
                         (0, 760, True), (-1010, 0, True), (990, 740, True)):  # fmt: skip
        region = specimen.region(x, y, 3, 3, 2000.0)
        assert (region.max() < 0.01) == opaque, (x, y)


def test_metal_film_and_tissue(tape):
    specimen = tape.specimen(2)
    assert specimen.region(100, 0, 16, 16, 4.0).max() == 0
    assert specimen.region(50, 0, 16, 16, 4.0) == pytest.approx(0.95, abs=0.003)
    tissue = specimen.region(0, 0, 128, 128, 16.0)
    assert tissue.std() > 0.03
    assert 0.4 < tissue.mean() < 0.8


def test_edge_of_the_opening_is_in_its_place(tape):
    line = tape.specimen(1).region(60.0, 20.0, 41, 1, 4.0)[0]
    assert line[:18] == pytest.approx(0.95, abs=0.01)
    assert line[22:].max() == 0


def test_each_section_is_another_and_always_the_same(tape):
    a, b = (tape.specimen(index).region(0, 0, 64, 64, 8.0) for index in (1, 2))
    assert not np.allclose(a, b)
    again = Tape(5, small_section, aperture_um=(120.0, 90.0), pitch=400.0, seed=7)
    np.testing.assert_array_equal(again.specimen(1).region(0, 0, 64, 64, 8.0), a)
    other = Tape(5, small_section, aperture_um=(120.0, 90.0), pitch=400.0, seed=8)
    assert other.placement(1) != tape.placement(1)


def test_a_section_is_made_when_asked_for_and_few_are_kept():
    made = []

    def factory(seed):
        made.append(seed)
        return small_section(seed)

    tape = Tape(50, factory, aperture_um=(120.0, 90.0), pitch=400.0)
    assert made == []
    first = tape.specimen(1)
    assert tape.specimen(1) is first
    assert len(made) == 1
    for index in range(2, 6):
        tape.specimen(index)
    assert len(made) == 5
    assert tape.specimen(1) is not first, "all apertures are kept in memory"


def test_sections_are_turned_and_shifted_by_the_known_placement():
    tape = Tape(3, lambda seed: PointGrid(1.0, 0.1), aperture_um=(120.0, 90.0), pitch=400.0, seed=3)
    angles = set()
    for index in (1, 2, 3):
        placement, specimen = tape.placement(index), tape.specimen(index)
        angles.add(placement.angle)
        for mark in ((0.0, 0.0), (12.0, -9.0), (-15.0, 11.0)):
            x, y = placement.to_aperture(*mark)
            assert placement.to_section(x, y) == pytest.approx(mark, abs=1e-9)
            half = 150  # ± 0.15 µm round a dot of radius 0.1 µm, at 1 nm
            dark = 0.95 - specimen.region(x, y, 2 * half + 1, 2 * half + 1, 1.0)
            if mark == (0.0, 0.0):
                assert dark[60:-60, 60:-60].min() > 0.5
                continue
            rows, columns = np.indices(dark.shape) - half
            assert (dark * columns).sum() / dark.sum() == pytest.approx(0, abs=0.3)
            assert (dark * rows).sum() / dark.sum() == pytest.approx(0, abs=0.3)
        # The long bar points along +x of the section: the sense of the rotation.
        bar = placement.to_aperture(0.7, 0.0)
        assert specimen.region(*bar, 3, 3, 4.0).max() < 0.3
    assert len(angles) == 3
    assert max(map(abs, angles)) > 0.5


def test_prefetch_and_close(tape):
    specimen = tape.specimen(4)
    specimen.prefetch(0, 0, 4.0, 4.0, 16.0)
    specimen.wait_prefetched(60)
    hits = specimen.cache.n_bytes
    specimen.region(0, 0, 128, 128, 16.0)
    assert specimen.cache.n_bytes == hits
    tape.close()


@pytest.mark.parametrize(
    ("arguments", "message"), [({"apertures": 0}, "at least one"), ({"pitch": 1999.0}, "overlap")]
)
def test_bad_tapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tape(**arguments)
