"""Where a command's data may go: nothing that is accepted leads out of the data's root."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.supervisor.commands import CommandRefusedError
from services.supervisor.guards import Guards

LONG = "/".join(["a" * 60] * 5)
DEEP = "/".join("abcdefghi")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with all kinds of links in it; it is one itself."""
    folder = tmp_path_factory.mktemp("guards")
    real, outside = folder / "real", folder / "outside"
    for one in (real / "GU-1" / "deep", real / "GU-2", outside / "inner"):
        one.mkdir(parents=True)
    (real / "out").symlink_to(outside)
    (real / "top").symlink_to("/")
    (real / "GU-1" / "out").symlink_to("../../outside")
    (real / "GU-1" / "other").symlink_to("../GU-2")
    (real / "GU-1" / "in").symlink_to("deep")
    (real / "loop").symlink_to("loop")
    (folder / "root").symlink_to(real)
    return folder / "root"


@pytest.mark.parametrize(
    ("proposal", "directory", "expected"),
    [
        (None, None, (None, None)),
        ("GU-1", None, ("GU-1", "GU-1")),
        ("GU-1", "GU-1", ("GU-1", "GU-1")),
        ("GU-1", "GU-1/grid-3/day_1.a", ("GU-1", "GU-1/grid-3/day_1.a")),
        ("GU-1", "GU-1/in/x", ("GU-1", "GU-1/in/x")),
        ("not-there-yet", "not-there-yet/a", ("not-there-yet", "not-there-yet/a")),
        (None, "commissioning/lens", (None, "commissioning/lens")),
    ],
)
def test_what_is_allowed_is_given_in_full(root: Path, proposal, directory, expected):
    assert Guards(root).check(proposal, directory) == expected


@pytest.mark.parametrize(
    ("proposal", "directory", "words"),
    [
        ("", None, "proposal is ''; it must be letters, digits and . _ -, up to 64"),
        ("..", None, "proposal is '..'"),
        ("GU-1\n", None, r"proposal is 'GU-1\\n'"),
        ("GU 1", None, "proposal is 'GU 1'"),
        ("Ä1", None, "proposal is 'Ä1'"),
        ("a" * 65, None, "up to 64"),
        ("GU-1", "", "directory is '', with ''; it must be a relative path"),
        ("GU-1", "/etc", "directory is '/etc', with ''"),
        ("GU-1", "GU-1/../GU-2", "with '..'"),
        ("GU-1", "GU-1//a", "with ''"),
        ("GU-1", "GU-1/./a", "with '.'"),
        ("GU-1", "GU-1/a/", "with ''"),
        ("GU-1", "GU-1\\a", r"directory is 'GU-1\\\\a'"),
        ("GU-1", "GU-1/a\0b", "with 'a"),
        ("GU-1", "GU-1/.hidden", "with '.hidden'"),
        ("GU-1", f"GU-1/{LONG}", "309 characters and 6 levels; 255 and 8 are the most"),
        ("GU-1", DEEP, "9 levels"),
        ("GU-1", "GU-2/a", "outside of the proposal's folder; begin it with 'GU-1/'"),
        ("GU-1", "GU-10", "outside of the proposal's folder"),
        ("GU-1", "GU-1/out", "'GU-1/out', a link that leads elsewhere"),
        ("GU-1", "GU-1/out/inner", "a link that leads elsewhere"),
        ("GU-1", "GU-1/other/a", "a link that leads elsewhere"),
        ("out", None, "a link that leads elsewhere"),
        (None, "top/etc", "a link that leads elsewhere"),
        (None, "out", "a link that leads elsewhere"),
    ],
)
def test_what_is_not_allowed_is_refused_with_the_reason(root: Path, proposal, directory, words):
    with pytest.raises(CommandRefusedError, match=words):
        Guards(root).check(proposal, directory)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python gives them back as they are")
def test_links_in_a_circle_lead_nowhere(root: Path):
    with pytest.raises(CommandRefusedError, match="directory 'loop/a' cannot be followed"):
        Guards(root).check(None, "loop/a")


def test_an_instrument_names_its_proposals(root: Path):
    guards = Guards(root, ["GU-1", "GU-3"], require_proposal=True)
    assert guards.check("GU-3", None) == ("GU-3", "GU-3")
    with pytest.raises(CommandRefusedError, match="none of this instrument's proposals"):
        guards.check("GU-2", None)
    with pytest.raises(CommandRefusedError, match="proposal is missing; this instrument wants one"):
        guards.check(None, "commissioning")
    with pytest.raises(CommandRefusedError, match="in the folder of a proposal; name it"):
        Guards(root, ["GU-1"]).check(None, "GU-1/a")


def test_a_path_is_confined_likewise(root: Path):
    guards = Guards(root)
    assert guards.confine("GU-1/notes.txt") == "GU-1/notes.txt"
    for bad in ("", "/etc/passwd", "../a", "GU-1/out/inner", "~root", "a\\b"):
        with pytest.raises(CommandRefusedError, match=r"^path is "):
            guards.confine(bad)


NAMES = st.sampled_from(
    ["GU-1", "GU-2", "out", "other", "in", "deep", "inner", "top", "etc", "loop", "new", "..", "."]
)
PATHS = st.one_of(
    st.lists(NAMES, min_size=1, max_size=9).map("/".join),
    st.lists(st.one_of(NAMES, st.text(max_size=5)), max_size=9).map("/".join),
    st.text(max_size=300),
)


@settings(deadline=None)
@given(proposal=st.none() | NAMES | st.text(max_size=8), directory=st.none() | PATHS)
def test_nothing_accepted_leads_out_of_the_root(root: Path, proposal, directory):
    try:
        accepted, within = Guards(root).check(proposal, directory)
    except CommandRefusedError:
        return
    assert accepted == proposal
    if within is None:
        assert proposal is directory is None
        return
    home = (root / (proposal or "")).resolve()
    assert home.is_relative_to(root.resolve())
    if "loop" not in within:
        assert (root / within).resolve().is_relative_to(home)


@settings(deadline=None)
@given(path=PATHS)
def test_no_path_accepted_leads_out_of_the_root(root: Path, path: str):
    try:
        confined = Guards(root).confine(path)
    except CommandRefusedError:
        return
    assert confined == path
    if "loop" not in confined:
        assert (root / confined).resolve().is_relative_to(root.resolve())
