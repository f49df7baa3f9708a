"""`temline lens fit`: matches of a real scale in every form, its figures, and plain mistakes."""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest
from PIL import Image

from callbacks.lens_files import load_lens
from formats.match_collections import MatchFileError, read_matches
from processing.geometry import PairMatches
from processing.lens import LensLimits, LensModel
from services.errors import PlainError
from services.lens import parse_degree, run_fit
from tests.processing.lenses import error, matches, positions, some_bends, some_lens

SHAPE = (3840, 3840)
LENS = some_lens(SHAPE, 90, seed=3)


@pytest.fixture(scope="module")
def pairs():
    """Nine tiles of a 20 Mpx camera, with outliers: their translation leaves tens of px."""
    return matches(LENS, positions(SHAPE), per_pair=120, outliers=0.15)


def collections(pairs, as_pairs=False, weights=True):
    """Matches in render's form: x before y, one list an axis, or one pair a place."""

    def written(places):
        xy = places[:, ::-1]
        return (xy if as_pairs else xy.T).tolist()

    return [
        {
            "pGroupId": "12.0",
            "pId": pair.a,
            "qGroupId": "12.0",
            "qId": pair.b,
            "matches": {"p": written(pair.p), "q": written(pair.q)}
            | ({"w": pair.weights.tolist()} if weights else {}),
        }
        for pair in pairs
    ]


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="matches.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(collections, id="render"),
        pytest.param(lambda p: {"collection": collections(p)}, id="collection"),
        pytest.param(lambda p: {"collections": collections(p)}, id="collections"),
        pytest.param(lambda p: {"matches": collections(p, as_pairs=True)}, id="matches of pairs"),
        pytest.param(lambda p: collections(p, weights=False), id="no weights"),
    ],
)
def test_every_form_gives_the_same_matches(write, pairs, wrap):
    found = read_matches(write(wrap(pairs)))
    assert [(m.a, m.b) for m in found] == [(m.a, m.b) for m in pairs]
    for mine, given in zip(found, pairs, strict=True):
        np.testing.assert_allclose(mine.p, given.p)
        np.testing.assert_allclose(mine.q, given.q)
        assert (mine.weights == 1).all()


def test_a_gzipped_file_is_read(tmp_path, pairs):
    path = tmp_path / "matches.json.gz"
    path.write_bytes(gzip.compress(json.dumps(collections(pairs)).encode()))
    assert len(read_matches(path)) == len(pairs)


def test_tiles_of_several_groups_keep_apart(write, pairs):
    content = collections(pairs[:1]) + [
        {**one, "pGroupId": 13, "qGroupId": 13} for one in collections(pairs[:1])
    ]
    assert {m.a for m in read_matches(write(content))} == {"12.0/tile-0-0", "13/tile-0-0"}


def test_a_set_of_real_scale_fits_and_is_accepted(write, pairs, tmp_path, capsys):
    out = tmp_path / "lens.json"
    assert run_fit(write(collections(pairs)), 3, SHAPE, out)
    printed = capsys.readouterr().out
    assert "\naccepted" in printed
    rms = float(re.search(r"([\d.]+) px RMS", printed)[1])
    translation = float(re.search(r"translation only +([\d.]+) px", printed)[1])
    assert rms <= 0.6
    assert translation > 20
    assert error(load_lens(out, SHAPE).model, LENS) < 0.3
    assert json.loads(out.read_text())["figures"]["residual_px_rms"] == pytest.approx(rms, abs=1e-3)


@pytest.fixture(scope="module")
def bent():
    """Nine tiles that are turned and scaled, behind a lens that is no cubic."""
    lens, where = some_lens(SHAPE, 60, seed=3, degree=5), positions(SHAPE)
    return matches(lens, where, bends=some_bends(where), per_pair=120, outliers=0.08)


def test_the_degree_is_chosen_and_all_said_that_it_was_chosen_by(write, bent, tmp_path, capsys):
    out, picture = tmp_path / "lens.json", tmp_path / "lens.png"
    assert run_fit(write(collections(bent)), "auto", SHAPE, out, plot_file=picture)
    printed = capsys.readouterr().out
    rows = re.findall(r"degree (\d) +([\d.]+) +([\d.]+) *(← used)?", printed)
    assert [int(row[0]) for row in rows] == list(range(2, 10))
    assert [row[0] for row in rows if row[3]] == ["5"]
    following = rows[4][2]
    assert f"degree 6 would leave {following} px" in printed
    assert re.search(r"tiles' own maps +0\.\d\d px RMS at the edges; scaled by 0\.\d\d ‰", printed)
    assert re.search(r"overlaps cover +100% of the frame", printed)

    content = json.loads(out.read_text())
    assert content["figures"]["degree"] == content["model"]["degree"] == 5
    assert f"{content['degrees'][4]['affines_px']:.3f}" == following
    assert content["figures"]["pairs_held_out_px_rms_next"] == content["degrees"][4]["affines_px"]
    assert content["figures"]["held_out_px_rms"] < 0.6
    assert set(content["bends"]) == set(content["tiles"])

    image = np.array(Image.open(picture).convert("L"))
    assert image.shape == (336, 768)
    assert image.std() > 20


def test_a_degree_that_is_too_low_is_kept_and_not_accepted(write, bent, capsys):
    """It leaves less than the limit of the residuals, which a cubic of such a lens once did."""
    assert not run_fit(write(collections(bent)), 4, SHAPE)
    printed = " ".join(capsys.readouterr().out.split())
    assert "degree 4: given; 5 is the lowest that is about as good as any" in printed
    assert "not accepted: degree 4 leaves" in printed
    assert "times the 0." in printed


def test_a_set_with_all_that_other_tools_write_beside_its_matches_is_read(write, pairs):
    """In the form of a real set: collections, a calibration and where the stage was."""
    named = [
        PairMatches(f"20190314_T4_{m.a}", f"20190314_T4_{m.b}", m.p, m.q, m.weights) for m in pairs
    ]
    names = dict.fromkeys(name for m in named for name in (m.a, m.b))
    content = {
        "collection": collections(named),
        "calibration": {"nm_per_pix": 3.95, "angle": 3.2},
        "tilespecs": [{"tileId": name, "xstage": -1.2e6, "ystage": -4.8e5} for name in names],
    }
    assert run_fit(write(content), "auto", SHAPE)


def test_the_matches_of_a_montage_are_refused_with_the_reason(write):
    montage = matches(some_lens(SHAPE, 20), positions(SHAPE, 5, 6, 0.08), per_pair=60)
    with pytest.raises(PlainError, match=r"matches.json: matched tiles overlap in \d\d%"):
        run_fit(write(collections(montage)), "auto", SHAPE)


@pytest.mark.parametrize("text", ["auto", "2", "9"])
def test_a_degree_is_read(text):
    assert str(parse_degree(text)) == text


@pytest.mark.parametrize("text", ["1", "10", "three", "2.5", "-3", ""])
def test_what_is_no_degree_is_refused(text):
    with pytest.raises(PlainError, match="must be auto or a whole number from 2 to 9"):
        parse_degree(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lens.txt", "lens.txt cannot be drawn: .*png"),
        ("none/lens.png", "cannot be written: No such"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_a_plain_error(write, pairs, tmp_path, name, message):
    with pytest.raises(PlainError, match=message):
        run_fit(write(collections(pairs)), 3, SHAPE, plot_file=tmp_path / name)


@pytest.mark.parametrize("name", ["matches.json.gz", "matches.json"])
def test_a_packed_file_that_is_cut_off_says_so(tmp_path, pairs, name):
    """Whatever it is called: its content tells that it is packed."""
    path = tmp_path / name
    packed = gzip.compress(json.dumps(collections(pairs)).encode())
    path.write_bytes(packed)
    assert len(read_matches(path)) == len(pairs)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(MatchFileError, match="cannot be unpacked"):
        read_matches(path)


def test_without_a_size_it_is_taken_from_the_matches(write, pairs, capsys):
    assert run_fit(write(collections(pairs)), 3)
    height, width = map(
        int, re.search(r"of (\d+) × (\d+) px \(from", capsys.readouterr().out).groups()
    )
    assert height == pytest.approx(3840, abs=40)
    assert width == pytest.approx(3840, abs=40)


def test_what_is_beyond_the_limits_is_not_accepted(write, pairs, capsys):
    assert not run_fit(write(collections(pairs)), 3, SHAPE, limits=LensLimits(most_std=0.1))
    assert "not accepted: standard deviation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        ("7", "holds a int; point matches are a list of collections"),
        ({"tiles": []}, "holds a mapping with the keys tiles"),
        ([{"pId": "a"}], r"collection 0, qId: Field required"),
        ([{"pId": "a", "qId": "b", "matches": {"p": "x", "q": []}}], r"matches.p: .* found 'x'"),
        (
            [{"pId": "a", "qId": "b", "matches": {"p": [[1, 2], [3]], "q": [[1], [2]]}}],
            r"collection 0: p and q are lists of the lengths \[2, 1\] and \[1, 1\]",
        ),
        (
            [{"pId": "a", "qId": "b", "matches": {"p": [[1], [2]], "q": [[1], [2]], "w": [1, 1]}}],
            "collection 0: .*weights have shapes",
        ),
        (
            [{"pId": "a", "qId": "b", "matches": {"p": [[1], [2]], "q": [[1], [2]], "w": [-1]}}],
            "greater than or equal to 0, found -1",
        ),
        (
            [{"pId": "a", "qId": "a", "matches": {"p": [[1], [2]], "q": [[1], [2]]}}],
            "tile a is matched with itself",
        ),
        ('[{"pId": "a", "qId": "b", "matches": {"p": [[NaN], [2]], "q": [[1], [2]]}}]', "finite"),
    ],
)
def test_files_of_another_form_say_what_was_found(write, content, message):
    with pytest.raises(MatchFileError, match=message) as refused:
        read_matches(write(content))
    assert "matches.json" in str(refused.value)


def test_a_missing_file_and_matches_that_say_too_little_are_plain_errors(write, tmp_path, pairs):
    with pytest.raises(MatchFileError, match="cannot be read: No such file"):
        run_fit(tmp_path / "none.json", 3)
    few = collections(pairs)[:1]
    for name in "pq":
        few[0]["matches"][name] = [line[:5] for line in few[0]["matches"][name]]
    few[0]["matches"]["w"] = [1] * 5
    with pytest.raises(PlainError, match=r"matches.json: there are 5 matches"):
        run_fit(write(few), 3)
    with pytest.raises(PlainError, match="cannot be written"):
        run_fit(write(collections(pairs)), 3, SHAPE, tmp_path / "matches.json" / "x" / "lens.json")


def test_a_fit_of_a_perfect_lens_corrects_nothing(write):
    flat = matches(LensModel.none(SHAPE), positions(SHAPE), noise=0.3)
    assert run_fit(write(collections(flat)), 3, SHAPE)
