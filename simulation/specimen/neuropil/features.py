"""What is wrong with a section, in known places: empty resin, a fold, a crack, debris, its edge.

Quality control has to find these, so tests must know where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, hypot, pi, radians, sin

import numpy as np
from numpy.typing import NDArray

from simulation.settings import BareResinSettings

EMPTY_FILM = 0.0513
"""Darkness of the bare film: transmission 0.95."""
EDGE_UM = 4.0
"""Bound of how far the edge of a section wanders."""
RESIN = 0.10
BARE = 0.03
DEBRIS = 3.2
DESIGN_SIZE_UM = 600.0
"""Side of a section that has features of full size; those of a smaller one are smaller."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Feature:
    """A blemish of a section.

    Parameters
    ----------
    kind : str
        "resin" (an area without tissue), "vessel" (a smaller one, in the tissue), "fold" (a dark
        band, the section doubled or tripled), "crack" (bright) or "debris" (a black speck).
    x, y : float
        Its middle, in µm.
    length, width : float
        Its size along its axis and across it, in µm; the outline wanders within a quarter of them.
    angle : float
        Direction of its axis, in degrees, counter-clockwise from +x.
    """

    kind: str
    x: float
    y: float
    length: float
    width: float
    angle: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the upright rectangle that holds it, in µm."""
        c, s = abs(cos(radians(self.angle))), abs(sin(radians(self.angle)))
        length, width = 1.3 * self.length, 1.3 * self.width + (12.0 if self.kind == "fold" else 0.5)
        half_x, half_y = (length * c + width * s) / 2, (length * s + width * c) / 2
        return self.x - half_x, self.x + half_x, self.y - half_y, self.y + half_y

    def distance(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far places (x, y) in µm are from its middle; 1 is its outline."""
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        along, across = ((places - (self.x, self.y)) @ np.array([[c, -s], [s, c]])).T
        return np.hypot(2 * along / self.length, 2 * across / self.width)


@dataclass
class Patch:
    """The part of a section that is being made, for `draw` to change.

    Parameters
    ----------
    x, y : ndarray of float32, shape (1, W) and (H, 1)
        Places of the pixels, in µm.
    pixel : float
        Pixel size, in µm.
    darkness, thickness : ndarray of float32, shape (H, W)
        Of the tissue; changed in place.
    rough : ndarray of float32, shape (H, W)
        A rough field of about unit variance, for outlines.
    """

    x: Floats
    y: Floats
    pixel: float
    darkness: Floats
    thickness: Floats
    rough: Floats

    def meets(self, left: float, right: float, bottom: float, top: float) -> bool:
        """Say whether a rectangle, in µm, touches the patch."""
        return bool(
            left <= self.x[0, -1] + self.pixel
            and right >= self.x[0, 0] - self.pixel
            and bottom <= self.y[0, 0] + self.pixel
            and top >= self.y[-1, 0] - self.pixel
        )

    def replace(self, inside: Floats, darkness: float) -> None:
        """Replace tissue where a signed distance (µm, positive inside) is positive."""
        self.cover(np.clip(0.5 + inside / max(self.pixel, 0.012), 0, 1), darkness)

    def cover(self, cover: Floats, darkness: float) -> None:
        """Replace a share (0 to 1) of the tissue in each pixel."""
        self.darkness += cover * (np.float32(darkness) - self.darkness)
        self.thickness += cover * (1 - self.thickness)


def place_features(seed: int, size_um: tuple[float, float]) -> tuple[Feature, ...]:
    """Choose where the features of a section are.

    They keep out of the middle (100 µm across in a section of 600 µm), but for small debris.

    Parameters
    ----------
    seed : int
        Of the section.
    size_um : tuple of float
        Width and height of the section, in µm.

    Returns
    -------
    tuple of Feature
        Three resin areas, a fold, a crack and 24 specks of debris.
    """
    rng = np.random.default_rng((seed, 100))
    scale = min(min(size_um) / DESIGN_SIZE_UM, 1.0)
    placed: list[Feature] = []

    def put(kind: str, length: float, width: float, angle: float, clear: float) -> None:
        """Find a free place; the last one tried will do in a crowded section."""
        margin = 0.5 * length + 8 * scale
        room = [max(side / 2 - margin, 0.0) for side in size_um]
        for _ in range(500):
            x, y = rng.uniform(-room[0], room[0]), rng.uniform(-room[1], room[1])
            far = hypot(x, y) > clear + length / 2
            if far and all(
                hypot(x - other.x, y - other.y) > (length + other.length) / 2 for other in placed
            ):
                break
        placed.append(Feature(kind, round(x, 3), round(y, 3), length, width, angle))

    put("fold", 190 * scale, 2.2, rng.uniform(0, 180), 50 * scale)
    put("crack", 80 * scale, 3.0, rng.uniform(0, 180), 50 * scale)
    for size in (60.0, 42.0, 28.0):
        put(
            "resin",
            size * scale,
            size * scale * rng.uniform(0.6, 0.9),
            rng.uniform(0, 180),
            50 * scale,
        )
    for k in range(24):
        size = round(float(0.3 * 12 ** rng.uniform(0, 1)), 3)
        clear = 4.0 * scale if k < 6 else 50 * scale
        put(
            "debris",
            min(size, 0.8) if k < 6 else size,
            0.8 * min(size, 2.5),
            rng.uniform(0, 180),
            clear,
        )
    return tuple(placed)


def place_vessels(
    seed: int, size_um: tuple[float, float], settings: BareResinSettings
) -> tuple[Feature, ...]:
    """Choose where vessels are cut across, all over the section: resin beside tissue.

    Parameters
    ----------
    seed : int
        Of the section.
    size_um : tuple of float
        Width and height of the section, in µm.
    settings : BareResinSettings

    Returns
    -------
    tuple of Feature
        One at a random place in each square of the given spacing.
    """
    rng = np.random.default_rng((seed, 101))
    columns, rows = (ceil(side / settings.spacing) for side in size_um)
    placed = []
    for i, j in np.ndindex(rows, columns):
        off_x, off_y = rng.uniform(-0.5, 0.5, 2)
        length = settings.size * rng.uniform(0.4, 1.0)
        width, angle = length * rng.uniform(0.5, 0.9), rng.uniform(0, 180)
        x = (j - (columns - 1) / 2 + off_x) * settings.spacing
        y = (i - (rows - 1) / 2 + off_y) * settings.spacing
        placed.append(Feature("vessel", x, y, length, width, angle))
    return tuple(placed)


def draw(features: tuple[Feature, ...], size_um: tuple[float, float], patch: Patch) -> None:
    """Draw the features that touch a patch, and the edge of the section.

    Parameters
    ----------
    features : tuple of Feature
    size_um : tuple of float
        Width and height of the section, in µm; beyond is empty film.
    patch : Patch
        Changed in place.
    """
    for kind, draw_one in _DRAW.items():  # the tissue first, what lies on it last
        for feature in features:
            if feature.kind == kind and patch.meets(*feature.box):
                draw_one(feature, patch)
    half_x, half_y = size_um[0] / 2, size_um[1] / 2
    if not (abs(patch.x).max() < half_x - EDGE_UM and abs(patch.y).max() < half_y - EDGE_UM):
        inside = np.minimum(half_x - abs(patch.x), half_y - abs(patch.y))
        patch.replace(-(inside + 0.6 * patch.rough), EMPTY_FILM)


def _axes(feature: Feature, patch: Patch) -> tuple[Floats, Floats]:
    """Turn places into distances from the middle of a feature, along its axis and across it."""
    c, s = np.float32(cos(radians(feature.angle))), np.float32(sin(radians(feature.angle)))
    dx, dy = patch.x - np.float32(feature.x), patch.y - np.float32(feature.y)
    return dx * c + dy * s, dy * c - dx * s


def _ellipse(feature: Feature, patch: Patch, wander: float) -> Floats:
    """Signed distance to a wandering ellipse, about right near its outline; positive inside."""
    along, across = _axes(feature, patch)
    away = np.hypot(along / (feature.length / 2), across / (feature.width / 2))
    return (1 + wander * patch.rough - away) * np.float32(feature.width / 2)


def _draw_resin(feature: Feature, patch: Patch) -> None:
    patch.replace(_ellipse(feature, patch, 0.06), RESIN)


def _draw_vessel(feature: Feature, patch: Patch) -> None:
    # The marks of the knife go on through the resin: only the tissue is replaced.
    inside = _ellipse(feature, patch, 0.06)
    cover = np.clip(0.5 + inside / max(patch.pixel, 0.012), 0, 1)
    patch.darkness += cover * (np.float32(RESIN) - patch.darkness)


def _draw_debris(feature: Feature, patch: Patch) -> None:
    patch.replace(_ellipse(feature, patch, 0.08), DEBRIS)


def _band(off: Floats, half: Floats, soft: float) -> Floats:
    """Share of each pixel within `half` of a line that is `off` away; all in µm."""
    covered = np.minimum(half, off + soft / 2) - np.maximum(-half, off - soft / 2)
    return np.clip(covered / np.float32(soft), 0, 1)


def _taper(feature: Feature, along: Floats) -> Floats:
    """Fall from 1 in the middle of a feature to 0 at its ends."""
    return np.clip(1 - (2 * along / feature.length) ** 2, 0, 1)


def _draw_crack(feature: Feature, patch: Patch) -> None:
    along, across = _axes(feature, patch)
    half = feature.width / 2 * _taper(feature, along) * (1 + 0.15 * patch.rough)
    course = 0.03 * feature.length * np.sin(along * np.float32(3.4 * pi / feature.length))
    patch.cover(_band(np.abs(across - course), half, max(patch.pixel, 0.012)), BARE)


def _draw_fold(feature: Feature, patch: Patch) -> None:
    along, across = _axes(feature, patch)
    half = feature.width / 2 * np.sqrt(_taper(feature, along))
    course = 5.0 * np.sin(along * np.float32(2 * pi / 120)) + 0.12 * patch.rough
    off = np.abs(across - course)
    # Three layers in the middle, where the section doubles back; two beside it.
    for share in (1.0, 0.55):
        patch.thickness += _band(off, half * np.float32(share), max(patch.pixel, 0.08))


_DRAW = {
    "vessel": _draw_vessel,
    "resin": _draw_resin,
    "fold": _draw_fold,
    "crack": _draw_crack,
    "debris": _draw_debris,
}
