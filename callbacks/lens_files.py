"""Files of lens corrections: JSON, named after the raw run whose tiles they were fitted to.

Whoever knows that uid finds the file: nothing else is shared.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from functools import lru_cache
from math import isnan
from pathlib import Path
from typing import Any

from callbacks.folders import await_files
from callbacks.references import file_version
from formats.whole_file import whole_file
from processing.lens import LensFit, LensMap, LensModel, lens_map


class LensFileError(ValueError):
    """A file holds no lens correction that could be used; the message says why."""


def lens_path(root: Path, raw_uid: str) -> Path:
    """Give the file that holds what was fitted to the tiles of a lens_correction run."""
    return root / f"{raw_uid}.json"


def fit_to_dict(fit: LensFit) -> dict[str, Any]:
    """Give a fit as plain data: the model, and the figures that it is judged by."""
    return {
        "model": fit.model.to_dict(),
        "accepted": fit.accepted,
        "reasons": list(fit.reasons),
        "figures": fit_figures(fit),
        "degrees": [asdict(trial) for trial in fit.trials],
        "tiles": {str(tile): list(place) for tile, place in fit.positions.items()},
        "bends": {str(tile): bend.tolist() for tile, bend in fit.bends.items()},
        "pairs": [
            {
                "a": pair.a,
                "b": pair.b,
                "matches": pair.matches,
                "inliers": pair.inliers,
                "rms": pair.rms if pair.inliers else None,
            }
            for pair in fit.pairs
        ],
    }


def fit_figures(fit: LensFit) -> dict[str, float | int | None]:
    """Give the figures of a fit, as they are named in its file and its run; lengths in px."""
    return {
        "residual_px_rms": fit.residual_px_rms,
        "residual_px_median": fit.residual_px_median,
        "residual_px_mean": fit.residual_px_mean,
        "residual_px_std": fit.residual_px_std,
        "uncorrected_px_median": fit.uncorrected_px_median,
        "largest_shift_px": fit.model.largest_shift,
        "degree": fit.model.degree,
        "held_out_px_rms": _known(fit.held_out_px_rms),
        "pairs_held_out_px_rms": fit.trial.held_out_px if fit.trial else None,
        "pairs_held_out_px_rms_next": fit.next_trial.held_out_px if fit.next_trial else None,
        "tile_bend_px_rms": fit.bend_px_rms,
        "covered": fit.covered,
        "matches": fit.matches,
        "inlier_share": fit.inlier_share,
        "scale": fit.scale,
        "rotation": fit.rotation,
    }


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def write_lens(path: Path, fit: LensFit, **more: Any) -> None:
    """Write a fit; the file appears complete or not at all.

    Parameters
    ----------
    path : Path
    fit : LensFit
    **more
        Further entries.
    """
    content = json.dumps({**more, **fit_to_dict(fit)}, indent=2, allow_nan=False)
    with whole_file(path) as unfinished:
        unfinished.write_text(content + "\n", encoding="utf-8")


def await_lens(path: str | Path, timeout: float, shape: tuple[int, int] | None = None) -> None:
    """Wait until a lens correction is on disk, and read it once.

    Parameters
    ----------
    path : str or Path
    timeout : float
        In s.
    shape : (int, int), optional
        (height, width) of the frames that it is for, in px.

    Raises
    ------
    FileNotFoundError
        If there is none after the time-out.
    OSError
        If it cannot be read.
    LensFileError
        If it holds no accepted lens correction, or one of frames of another shape.
    """
    await_files([path], "lens correction", timeout)
    load_lens(path, shape)


def load_lens(path: str | Path, shape: tuple[int, int] | None = None) -> LensMap:
    """Read a lens correction, and give its map; the last ones are kept, in each process.

    Parameters
    ----------
    path : str or Path
        That `write_lens` wrote.
    shape : (int, int), optional
        (height, width) of the frames that it is for, in px.

    Returns
    -------
    LensMap

    Raises
    ------
    OSError
        If the file cannot be read.
    LensFileError
        If it holds no lens correction, one that was not accepted, or one of frames of another
        shape.
    """
    with _loading:  # a map takes a while to work out: once is enough for all threads
        made = _load_lens(str(path), file_version(str(path)))
    if shape is not None and made.shape != tuple(shape):
        raise LensFileError(
            f"{path} corrects frames of {made.shape} px, these are {tuple(shape)}: "
            "take lens-correction tiles with this camera setting"
        )
    return made


_loading = threading.Lock()


@lru_cache(maxsize=2)
def _load_lens(path: str, version: tuple[int, ...]) -> LensMap:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        model = LensModel.from_dict(content["model"])
        accepted, reasons = bool(content["accepted"]), list(content["reasons"])
    except (KeyError, TypeError, ValueError) as error:
        raise LensFileError(f"{path} holds no lens correction: {error!r}") from error
    if not accepted:
        raise LensFileError(
            f"the lens correction {path} was not accepted: {'; '.join(reasons)}: take its tiles "
            "again, at a place with texture everywhere"
        )
    return lens_map(model)
