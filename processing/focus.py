"""Focus: how much fine detail a tile holds for its coarse detail.

Taken from the power spectrum less its noise floor, so that dose and contrast do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from processing.spectrum import (
    CORRELATED,
    EDGE_POWER,
    FINE,
    TileSpectrum,
    frequency,
    in_band,
    tile_spectrum,
    whole,
)

NAN = float("nan")
LEAST_SHARE = 0.1  # of the windows must have texture, or what there is may be a speck on resin
Part = tuple[int | slice, int | slice]
SIDES: Mapping[str, Part] = {
    "top": (0, slice(None)),
    "bottom": (-1, slice(None)),
    "left": (slice(None), 0),
    "right": (slice(None), -1),
}


@dataclass(frozen=True)
class Focus:
    """How sharp a tile is.

    Attributes
    ----------
    score : float
        0 to 1. Sharp edges in random directions have 0.5; a blurred tile nears 0. It falls with
        the size of the defocus, whatever its sign. 0 if there is no texture.
    sd : float
        Standard deviation of the score by the frame's noise; nan if there is no texture.
    sides : mapping of {"top", "bottom", "left", "right"} to float
        The score of the windows along each side; nan if there is no texture. Neighbours see the
        same there, so their ratio is the optics' alone.
    coarse : float
        Power of the coarse detail of the windows that have texture, above the noise floor, as the
        factor of the power that sharp edges have; nan if there are none.
    coarse_sides : mapping of {"top", "bottom", "left", "right"} to float
        The same along each side: tells whether a neighbour really sees the same there.
    texture : float
        Power of the coarse detail over the noise floor, median of the windows.
    share : float
        Share of the windows that have texture, 0 to 1.
    """

    score: float
    sd: float
    sides: Mapping[str, float]
    coarse: float
    coarse_sides: Mapping[str, float]
    texture: float
    share: float

    @property
    def textured(self) -> bool:
        """Whether there is enough texture to tell the focus from."""
        return self.share >= LEAST_SHARE


def focus_score(frame: NDArray[np.generic], mask: NDArray[np.bool_] | None = None) -> Focus:
    """Measure the focus of a frame; see `focus`.

    Parameters
    ----------
    frame : ndarray, shape (height, width)
        Real pixel values, flat-field corrected for preference; 128 × 128 at least.
    mask : ndarray of bool, shape (height, width), optional
        True where there is no signal.

    Returns
    -------
    Focus

    Raises
    ------
    TypeError, ValueError
        As `tile_spectrum`.
    """
    return focus(tile_spectrum(frame, mask))


def focus(spectrum: TileSpectrum) -> Focus:
    """Measure the focus of a tile.

    The power in a band of fine detail is compared with that of coarse detail, each less the noise
    floor and relative to the power that sharp edges have there, which falls as the cube of the
    frequency (D. J. Field, J. Opt. Soc. Am. A 4, 1987, for natural scenes; ours are sections).
    Windows without texture do not count.

    Parameters
    ----------
    spectrum : TileSpectrum

    Returns
    -------
    Focus
    """
    used = spectrum.textured
    sides = {name: _score(spectrum, used, part) for name, part in SIDES.items()}
    coarse = {name: _mean(spectrum.coarse, used, part) for name, part in SIDES.items()}
    if not used.any():
        return Focus(0.0, NAN, sides, NAN, coarse, float(np.median(spectrum.texture)), 0.0)
    score = _score(spectrum, used)
    return Focus(
        score=score,
        sd=_error(spectrum, used, score),
        sides=sides,
        coarse=_mean(spectrum.coarse, used),
        coarse_sides=coarse,
        texture=float(np.median(spectrum.texture)),
        share=float(used.mean()),
    )


def _mean(
    values: NDArray[np.float64], used: NDArray[np.bool_], part: Part = (slice(None), slice(None))
) -> float:
    """Return the mean over some windows; nan if none has texture."""
    chosen = used[part]
    return float(values[part][chosen].mean()) if chosen.any() else NAN


def _score(
    spectrum: TileSpectrum, used: NDArray[np.bool_], part: Part = (slice(None), slice(None))
) -> float:
    """Give the score of some windows; nan if none has texture."""
    coarse = _mean(spectrum.coarse, used, part)
    fine = np.maximum(0.0, _mean(spectrum.fine, used, part))
    return float(fine / (fine + coarse))


def _error(spectrum: TileSpectrum, used: NDArray[np.bool_], score: float) -> float:
    """Give the standard deviation of the score by noise."""
    coarse = float(spectrum.coarse[used].mean())
    of_fine = spectrum.floor * _error_in_fine() / float(used.sum()) ** 0.5
    return (1 - score) ** 2 * of_fine / coarse  # the derivative of f / (f + c), times that of f


@lru_cache(maxsize=1)
def _error_in_fine() -> float:
    """Give the standard deviation of the fine band's power in one window, for a floor of 1."""
    inside = in_band(FINE)
    weights = whole()[inside] * frequency()[inside] ** EDGE_POWER
    sum_of_squares = float(np.square(weights).sum())
    return float((CORRELATED * sum_of_squares) ** 0.5 / whole()[inside].sum())
