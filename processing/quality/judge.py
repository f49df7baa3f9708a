"""Judges the tiles and the matches of one montage as they come, and the montage at its end.

Every rule is a function of its own; what differs between specimens is left to comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import geometric_mean, median
from typing import Any

from processing.quality import faults as named
from processing.quality.agreement import Agreement
from processing.quality.faults import FAULTS, Fault, GoNoGo, Scope, Verdict
from processing.quality.history import RunningMedian
from processing.quality.thresholds import Thresholds

NAN = float("nan")
_Scores = list[tuple[float, float]]  # of the focus of a tile, and of a neighbour
# The side of a tile, where its neighbour lies in rows and columns, and the neighbour's side.
SIDES = (
    ("right", (0, 1), "left"),
    ("bottom", (1, 0), "top"),
    ("left", (0, -1), "right"),
    ("top", (-1, 0), "bottom"),
)
# Share of a tile without signal, from which on some of it was lost if no others tell what is usual:
# a round aperture takes 0.21 of a square.
MAX_MASKED = 0.3
USUAL_SNR = 1.0  # at this signal-to-noise ratio the spectrum's figures are half trusted
HALF_TRUSTED = 2  # tiles of a median that is half trusted
SURE = 1.0  # standard deviations by which a score must lie under its limit
LEAST_DETAIL = 1e-3  # fine or coarse, of all
ONE_SIDE = 2.0  # the error of a side's score over that of the whole tile: it has a quarter of it
# Odds, as logarithms, that a blur is drift and not a lens: by its shape at most half of the first.
SHAPE_COUNTS, ALONE, SAME_BLUR = 4.0, 1.8, 3.0
SAME_DIRECTION = 15.0  # degrees
# A tile with so much of its neighbours' fine detail in what they share is not blurred: what looks
# like it is the direction of the specimen. 2 px of drift, the limit, leave 0.73 to 0.90.
NOT_BLURRED, LEAST_TO_DENY = 0.9, 2  # neighbours
# Two that see the same have as much coarse detail, to within what a shift of some windows makes of
# it. Beyond, as where resin begins, fine over coarse tells nothing; but a blur that takes so much
# of the coarse leaves next to nothing of the fine.
MIN_SAME_COARSE, MAX_SAME_COARSE = 0.4, 2.0
WIPED_OUT = 0.1  # of the neighbour's fine over coarse
# An overlap that keeps so much of it does not show defocus, however the tile beyond it differs.
SHOWN_BESIDE = 0.8
UNSHARP = frozenset({named.OUT_OF_FOCUS, named.DRIFTED, named.ASTIGMATIC})
LOST_LIGHT = frozenset({named.DIM, named.FAILED_PROCESSING, named.OBSTRUCTED, named.BEAM_EDGE})


@dataclass(eq=False)
class _Tile:
    """What is remembered of a tile as it was taken last."""

    data: Mapping[str, Any]
    attempt: int
    verdict: Verdict = field(default_factory=Verdict)
    blur: Fault | None = None  # along one direction, whether or not its neighbours bear it out
    lasting: bool = False  # the textured tile before has the same blur
    matched: dict[int, bool] = field(default_factory=dict)  # textured neighbours, and if they match
    beyond: dict[int, float] = field(default_factory=dict)  # px that neighbours lie from nominal

    @property
    def place(self) -> tuple[int, int]:
        return int(self.data["tile_row"]), int(self.data["tile_column"])

    @property
    def good(self) -> bool:
        return not self.verdict.harmful


class Judge:
    """Judges one montage. It is used on one thread.

    A figure that was not measured, because its step is left out of the chain, is not judged.

    Parameters
    ----------
    thresholds : Thresholds
    n_tiles : int
        Tiles that the montage will have.
    """

    def __init__(self, thresholds: Thresholds, n_tiles: int) -> None:
        self._limits, self._n_tiles = thresholds, n_tiles
        self._tiles: dict[int, _Tile] = {}
        self._places: dict[tuple[int, int], int] = {}
        self._means, self._scores = RunningMedian(), RunningMedian()
        self._masked = RunningMedian()
        self._in_a_row: dict[str, int] = {}  # by fault
        self._last: Mapping[str, Any] | None = None  # the textured tile before
        self._found_late: list[tuple[int, Fault]] = []

    # Tiles

    def tile(self, data: Mapping[str, Any]) -> Verdict:
        """Judge a tile.

        Parameters
        ----------
        data : mapping
            Of an event of the stream `tile`: at least `tile_index`, `tile_attempt`, `tile_row`,
            `tile_column` and `error`, and the figures of the steps that were run.

        Returns
        -------
        Verdict
        """
        index, attempt = int(data["tile_index"]), int(data["tile_attempt"])
        lasting = self._follows_same_blur(data)
        blur = self._blur(data, lasting)
        verdict = self._scoped(self._look(data, blur))
        known = self._tiles.get(index)
        if known is not None and known.attempt > attempt:  # an earlier take that was done later
            return verdict
        if known is not None:
            self._forget(index, known)
        tile = _Tile(dict(data), attempt, verdict, blur, lasting)
        self._tiles[index], self._places[tile.place] = tile, index
        self._count(tile, 1)
        self._look_back(tile)
        if data.get("textured"):
            self._last = tile.data
        return verdict

    def _look_back(self, tile: _Tile) -> None:
        """Name the blur of the tile before anew: a lens has it in this one too, a drift has not."""
        before = None if self._last is None else self._tiles.get(int(self._last["tile_index"]))
        if before is None or before.data is not self._last or before.blur is None:
            return
        limits, blur = self._limits, before.blur
        if tile.lasting and named.ASTIGMATIC in tile.verdict.names.split(","):
            limit = limits.most_astigmatism
            strength = max(_figure(before.data, "astigmatism"), limit)
            found = _above(named.ASTIGMATIC, strength, limit, blur.confidence)
            told = replace(found, scope="persistent")
        elif tile.good and tile.data.get("textured") and not (tile.lasting or before.lasting):
            length = max(_figure(before.data, "drift_px"), limits.most_drift)
            told = _above(named.DRIFTED, length, limits.most_drift, blur.confidence)
        else:
            return
        if told.name == blur.name:
            return
        before.blur = told
        index = int(before.data["tile_index"])
        if blur.name in before.verdict.names.split(","):
            self._clear(index, blur.name)
            self._found_late += self._add(index, told)

    def _look(self, data: Mapping[str, Any], blur: Fault | None) -> Iterator[Fault]:
        """Find the faults that a tile shows by itself and beside its neighbours."""
        if data["error"]:
            yield _found(named.FAILED_PROCESSING, 1.0, 0.0)
            return
        of_light = list(self._look_at_light(data))
        yield from of_light
        if not data.get("textured", True):
            yield replace(_found(named.FEATURELESS, 1.0, 1.0), severity=0.0)
        elif not of_light:  # else its spectrum shows the light, or the edge of what is in the way
            yield from self._look_at_sharpness(data, blur)

    def _look_at_light(self, data: Mapping[str, Any]) -> Iterator[Fault]:
        limits = self._limits
        mean, usual = _figure(data, "mean"), self._usual(self._means)
        least = max(limits.least_mean, limits.least_mean_relative * usual if usual else 0.0)
        if mean < least:
            yield _below(named.DIM, mean, least, self._rests(self._means, least, limits.least_mean))
        for name, figure, limit in (
            (named.SATURATED, "saturated", limits.most_saturated),
            (named.BEAM_EDGE, "beam_edge", limits.most_beam_edge),
            (named.OBSTRUCTED, "obstructed", limits.most_obstructed),
        ):
            if _figure(data, figure) > limit:
                yield _above(name, _figure(data, figure), limit, 1.0)
        if _figure(data, "masked") > (limit := self._most_masked()):
            # As in part of a frame that did not arrive: the others show more.
            yield _above(named.OBSTRUCTED, _figure(data, "masked"), limit, 1.0)

    def _look_at_sharpness(self, data: Mapping[str, Any], blur: Fault | None) -> Iterator[Fault]:
        """Find what makes a tile blurred: along one direction, unless neighbours deny it, or all.

        A specimen may have a direction itself, which they see as well.
        """
        shared, _ = self._beside_neighbours(data)
        denied = len(shared) >= LEAST_TO_DENY and _share(shared) > NOT_BLURRED
        if blur and not denied:
            yield blur
        else:
            yield from self._look_at_focus(data)

    def _blur(self, data: Mapping[str, Any], lasting: bool) -> Fault | None:
        """Name blur along one direction: drift, or an astigmatic lens.

        The shape of the blur tells them apart if it is long. Beyond that, a lens does not change
        from one tile to the next, and a stage that drifts in one exposure hardly does in the next.
        Of two tiles alike both shapes count, as they have one cause.
        """
        limits, trust = self._limits, _trust(data)
        odds = _by_shape(data)
        odds += _by_shape(self._last or {}) - SAME_BLUR if lasting else ALONE
        length, strength = _figure(data, "drift_px"), _figure(data, "astigmatism")
        if not odds < 0 and length > limits.most_drift:
            return _above(named.DRIFTED, length, limits.most_drift, trust)
        if odds < 0 and strength > limits.most_astigmatism:
            return _above(named.ASTIGMATIC, strength, limits.most_astigmatism, trust)
        return None

    def _follows_same_blur(self, data: Mapping[str, Any]) -> bool:
        """Tell whether the tile before was blurred along the same direction, or across.

        The two line foci of an astigmatic lens lie across each other, on both sides of the focus.
        """
        pair = (self._last or {}, data)
        if not all(_figure(each, "drift_px") > 0 for each in pair):
            return False
        turn = _figure(data, "drift_angle") - _figure(pair[0], "drift_angle")
        return abs((turn + 45) % 90 - 45) <= SAME_DIRECTION

    def _look_at_focus(self, data: Mapping[str, Any]) -> Iterator[Fault]:
        """Compare a score with the neighbours', who see the same; only without them with all's.

        Specimens differ from place to place in how much fine detail they have: what a tile shares
        with its neighbours tells defocus from that. Yet an overlap is small, and an error of the
        stage shifts it, so whole tiles are compared as well, and both must show it. A score that
        noise may have made low passes.
        """
        limits, score, trust = self._limits, _figure(data, "focus"), _trust(data)
        error = SURE * max(0.0, _figure(data, "focus_sd", 0.0))
        shared, whole = self._beside_neighbours(data)
        if score + error < limits.least_focus:
            yield _below(named.OUT_OF_FOCUS, score, limits.least_focus, trust)
        elif shared:
            seen_beside = _share(shared, ONE_SIDE * error)
            share = (seen_beside * _share(whole, error)) ** 0.5 if whole else seen_beside
            if seen_beside < SHOWN_BESIDE and share < limits.least_focus_neighbour:
                sure = trust * len(shared) / (len(shared) + 1)
                yield _below(named.OUT_OF_FOCUS, share, limits.least_focus_neighbour, sure)
        elif (
            not self._neighbours(data)
            and (usual := self._usual(self._scores))
            and score + error < limits.least_focus_relative * usual
        ):
            sure = trust * self._rests(self._scores)
            yield _below(named.OUT_OF_FOCUS, score, limits.least_focus_relative * usual, sure)

    def _beside_neighbours(self, data: Mapping[str, Any]) -> tuple[_Scores, _Scores]:
        """Return the focus of the tile and of each neighbour: in their overlap, and as a whole.

        Of those that see the same, there and as a whole.
        """
        shared, whole = [], []
        for side, its_side, other in self._neighbours(data):
            if _see_the_same(data, other.data, side, its_side):
                pair = _figure(data, f"focus_{side}"), _figure(other.data, f"focus_{its_side}")
                shared.append(pair)
                if _see_the_same(data, other.data):
                    whole.append((_figure(data, "focus"), _figure(other.data, "focus")))
        return shared, whole

    def _neighbours(self, data: Mapping[str, Any]) -> list[tuple[str, str, _Tile]]:
        """Return the good neighbours that show texture beside a tile's: both sides, and the tile.

        Those that do not match are left out: they show other places.
        """
        found = []
        row, column = int(data["tile_row"]), int(data["tile_column"])
        index = int(data["tile_index"])
        for side, (down, across), its_side in SIDES:
            other = self._tiles.get(self._places.get((row + down, column + across), -1))
            if other is None or not other.good or not other.data.get("textured", True):
                continue
            if not other.matched.get(index, True):
                continue
            if _figure(data, f"focus_{side}") >= 0 and _figure(other.data, f"focus_{its_side}") > 0:
                found.append((side, its_side, other))
        return found

    # What tiles are compared with

    def _usual(self, values: RunningMedian) -> float:
        """Give the median of the good tiles; 0 if there are too few."""
        return values.median if len(values) >= max(1, self._limits.least_tiles) else 0.0

    def _most_masked(self) -> float:
        """Return the share of a tile that may be without signal: little more than of the others."""
        if len(self._masked) < max(1, self._limits.least_tiles):
            return MAX_MASKED
        return self._masked.median + self._limits.most_obstructed

    @staticmethod
    def _rests(values: RunningMedian, limit: float = 1.0, absolute: float = 0.0) -> float:
        """Tell how well a limit is founded: fully if absolute, else by the tiles behind it."""
        return 1.0 if limit == absolute else len(values) / (len(values) + HALF_TRUSTED)

    def _count(self, tile: _Tile, sign: int) -> None:
        """Take a good tile into what others are compared with, or out of it."""
        if not tile.good:
            return
        counted = [(self._means, "mean"), (self._masked, "masked")]
        if tile.data.get("textured", True):
            counted.append((self._scores, "focus"))
        for values, key in counted:
            (values.add if sign > 0 else values.remove)(_figure(tile.data, key))

    def _forget(self, index: int, tile: _Tile) -> None:
        """Let go of an earlier take, and of what its matches said about its neighbours."""
        self._count(tile, -1)
        for other in (*tile.matched, *tile.beyond):
            if other in self._tiles:
                self._tiles[other].matched.pop(index, None)
                self._tiles[other].beyond.pop(index, None)

    def _scoped(self, found: Iterator[Fault]) -> Verdict:
        """Tell from the tiles before how far each fault reaches."""
        listed = sorted(found, key=lambda fault: FAULTS.index(fault.name))
        self._in_a_row = {fault.name: self._in_a_row.get(fault.name, 0) + 1 for fault in listed}
        return Verdict(tuple(replace(fault, scope=self._scope(fault)) for fault in listed))

    def _scope(self, fault: Fault) -> Scope:
        limits, n = self._limits, self._in_a_row.get(fault.name, 0)
        if fault.name in LOST_LIGHT and n >= limits.critical_tiles:
            return "critical"
        return "persistent" if n >= limits.persistent_tiles else "transient"

    # Matches

    def match(self, data: Mapping[str, Any]) -> list[tuple[int, Fault]]:
        """Judge a match of two neighbours.

        Parameters
        ----------
        data : mapping
            Of an event of the stream `match`.

        Returns
        -------
        list of (int, Fault)
            Faults that only the match shows, with the index of the tile that has them.
        """
        a, b = int(data["tile_a"]), int(data["tile_b"])
        pair = [self._tiles.get(index) for index in (a, b)]
        attempts = int(data["attempt_a"]), int(data["attempt_b"])
        if any(t is None or t.attempt != n for t, n in zip(pair, attempts, strict=True)):
            return []  # of an earlier take
        first, second = self._tiles[a], self._tiles[b]
        if not data["good"] and data["reason"] == "no texture":
            return []
        first.matched[b] = second.matched[a] = bool(data["good"])
        if (off := _offset(data)) is not None:
            first.beyond[b] = second.beyond[a] = off
        found = [*self._look_again(a, b), *self._unmatched(a, b), *self._displaced(a, b)]
        late, self._found_late = self._found_late, []
        return late + found

    def _look_again(self, a: int, b: int) -> Iterator[tuple[int, Fault]]:
        """Look at two tiles again, now that more is there to compare them with."""
        for index in (a, b):
            tile = self._tiles[index]
            for fault in self._look_at_light(tile.data):
                yield from self._add(index, fault)
            names = {fault.name for fault in tile.verdict.faults}
            if not tile.data.get("textured", True) or names - UNSHARP:
                continue
            found = list(self._look_at_sharpness(tile.data, tile.blur))
            for name in names - {fault.name for fault in found}:
                self._clear(index, name)
            for fault in found:
                yield from self._add(index, fault)

    def _unmatched(self, a: int, b: int) -> Iterator[tuple[int, Fault]]:
        """Blame a tile of which no edge matches, if there are two or more."""
        for index in (a, b):
            tile = self._tiles[index]
            if {fault.name for fault in tile.verdict.faults} - {named.NO_MATCH}:
                continue  # that is why
            told = [good for other, good in tile.matched.items() if self._can_match(other)]
            n_good = sum(told)
            if len(told) >= 2 and not n_good:
                sure = _trust(tile.data) * (1 - 0.5 ** len(told))
                yield from self._add(index, _below(named.NO_MATCH, 0.0, 1.0, sure))
            elif n_good:
                self._clear(index, named.NO_MATCH)

    def _can_match(self, index: int) -> bool:
        """Tell whether a tile can match: another one does, or it has no fault that prevents it."""
        tile = self._tiles[index]
        others = {fault.name for fault in tile.verdict.harmful} - {named.NO_MATCH}
        return not others or any(tile.matched.values())

    def _displaced(self, a: int, b: int) -> Iterator[tuple[int, Fault]]:
        """Blame a tile of each pair of these too far apart; more matches shift the blame."""
        for index in (a, b):
            for other, off in self._tiles[index].beyond.items():
                if off > self._limits.most_offset:
                    yield from self._blame(index, other, off)

    def _blame(self, a: int, b: int, off: float) -> Iterator[tuple[int, Fault]]:
        """Blame the tile that its other neighbours find further off; the later one if none tells.

        Nobody is blamed anew if the other tile is far off too: that is why.
        """
        limit = self._limits.most_offset
        told = {a: self._usual_offset(a, b), b: self._usual_offset(b, a)}
        right, wrong = sorted(told, key=lambda index: (told[index], index))
        if told[right] > limit and self._is_displaced(right):
            return
        self._clear(right, named.OFFSET_BEYOND_LIMIT)
        n = len(self._tiles[wrong].beyond)
        yield from self._add(wrong, _above(named.OFFSET_BEYOND_LIMIT, off, limit, n / (n + 1)))

    def _is_displaced(self, index: int) -> bool:
        return named.OFFSET_BEYOND_LIMIT in self._tiles[index].verdict.names.split(",")

    def _usual_offset(self, index: int, but: int) -> float:
        """Give the median offset of a tile from neighbours in their place, but one.

        It is the limit if there are none: neither here nor there.
        """
        offsets = self._tiles[index].beyond.items()
        others = [off for i, off in offsets if i != but and not self._is_displaced(i)]
        return median(others or [self._limits.most_offset])

    def _add(self, index: int, fault: Fault) -> Iterator[tuple[int, Fault]]:
        """Add a fault to a tile, unless it has it."""
        tile = self._tiles[index]
        if any(known.name == fault.name for known in tile.verdict.faults):
            return
        self._count(tile, -1)
        listed = sorted((*tile.verdict.faults, fault), key=lambda one: FAULTS.index(one.name))
        tile.verdict = Verdict(tuple(listed))
        yield index, fault

    def _clear(self, index: int, name: str) -> None:
        """Take a fault from a tile that more is known of."""
        tile = self._tiles[index]
        if any(fault.name == name for fault in tile.verdict.faults):
            tile.verdict = Verdict(tuple(f for f in tile.verdict.faults if f.name != name))
            self._count(tile, 1)

    # The end

    def verdicts(self) -> dict[int, Verdict]:
        """Give the last word on each tile, by its index."""
        return {index: self._tiles[index].verdict for index in sorted(self._tiles)}

    def textured(self) -> dict[int, bool]:
        """Return whether each tile shows anything to be matched by, by its index."""
        return {
            index: named.FEATURELESS not in {fault.name for fault in tile.verdict.faults}
            for index, tile in self._tiles.items()
        }

    def montage(self, agreement: Agreement | None = None) -> GoNoGo:
        """Judge the montage as it stands.

        Parameters
        ----------
        agreement : Agreement, optional
            How well its solution agrees with all matches that were believed.

        Returns
        -------
        GoNoGo
        """
        reasons = tuple(self._reasons(agreement))
        return GoNoGo(not reasons, reasons)

    def _reasons(self, agreement: Agreement | None) -> Iterator[str]:
        limits, tiles = self._limits, list(self._tiles.values())
        if len(tiles) < self._n_tiles:
            yield f"{self._n_tiles - len(tiles)} of {self._n_tiles} tiles are missing"
        n_failed = sum(not tile.good for tile in tiles)
        if n_failed > limits.most_failed * self._n_tiles:
            yield f"{n_failed} of {self._n_tiles} tiles fail"
        pairs = [good for tile in tiles for good in tile.matched.values()]
        if pairs and 1 - sum(pairs) / len(pairs) > limits.most_unmatched:
            yield f"{pairs.count(False) // 2} of {len(pairs) // 2} textured pairs have no match"
        contrast = [_figure(tile.data, "std") / _figure(tile.data, "mean", 1.0) for tile in tiles]
        known = [value for value in contrast if isfinite(value)]
        if known and median(known) < limits.least_contrast:
            yield f"the contrast of its tiles is {median(known):.3f}, under {limits.least_contrast}"
        spread = self._scores.spread / self._scores.median if self._usual(self._scores) else 0.0
        if spread > limits.most_focus_spread:
            yield f"the focus scatters by {spread:.2f}, over {limits.most_focus_spread}"
        if agreement is not None:
            yield from limits.reasons(agreement)


def _offset(data: Mapping[str, Any]) -> float | None:
    """Give how far b lies from its nominal place, in px along the worse axis; None if unknown."""
    if not data["good"] and data["reason"] != "out of range":
        return None
    return max(
        abs(float(data["drow"]) - float(data["nominal_drow"])),
        abs(float(data["dcol"]) - float(data["nominal_dcol"])),
    )


def _share(scores: _Scores, error: float = 0.0) -> float:
    """Give the fine detail of a tile as a fraction of its neighbours'; nan if there are none.

    A score is the fine detail's share of all, so score / (1 - score) is fine over coarse detail,
    of which a blur takes the same fraction whatever the specimen.

    Parameters
    ----------
    scores : list of (float, float)
        Of the tile and of each neighbour.
    error : float
        By which the tile's may be too low.
    """
    fractions = [_fine_over_coarse(mine + error) / _fine_over_coarse(its) for mine, its in scores]
    return geometric_mean(fractions) if fractions else NAN


def _see_the_same(
    data: Mapping[str, Any], other: Mapping[str, Any], side: str = "", its_side: str = ""
) -> bool:
    """Whether two tiles, or sides of them, may see the same, blurred or not."""
    mine, its = (
        {name: _figure(one, f"{name}_{at}" if at else name) for name in ("coarse", "focus")}
        for one, at in ((data, side), (other, its_side))
    )
    if not (isfinite(mine["coarse"]) and isfinite(its["coarse"])):
        return True  # nobody measured it
    if mine["coarse"] < MIN_SAME_COARSE * its["coarse"]:
        return _share([(mine["focus"], its["focus"])]) < WIPED_OUT
    return mine["coarse"] <= MAX_SAME_COARSE * its["coarse"]


def _fine_over_coarse(score: float) -> float:
    score = min(max(score, LEAST_DETAIL), 1 - LEAST_DETAIL)
    return score / (1 - score)


def _figure(data: Mapping[str, Any], name: str, least: float = NAN) -> float:
    """Give a figure of a tile; nan if it was not measured."""
    value = float(data.get(name, NAN))
    return max(value, least) if isfinite(least) else value


def _by_shape(data: Mapping[str, Any]) -> float:
    """Give the odds that a tile's blur is drift and not a lens, by its shape; as a logarithm."""
    return SHAPE_COUNTS * (_figure(data, "motion") - 0.5)


def _trust(data: Mapping[str, Any]) -> float:
    """Tell how far the figures from a tile's spectrum can be trusted, 0 to 1."""
    snr, share = data.get("snr", NAN), data.get("textured_share", 1.0)
    by_noise = 1.0 if not isfinite(snr) else snr / (snr + USUAL_SNR)
    return float(min(1.0, max(0.0, by_noise * share**0.5)))


def _found(name: str, value: float, limit: float) -> Fault:
    return Fault(name, 1.0, 1.0, "transient", value, limit)


def _below(name: str, value: float, limit: float, confidence: float) -> Fault:
    return Fault(name, min(1.0, 1 - value / limit), confidence, "transient", value, limit)


def _above(name: str, value: float, limit: float, confidence: float) -> Fault:
    return Fault(name, 1 - limit / value, confidence, "transient", value, limit)
