"""`temline lens`: fits a lens to point matches that were measured elsewhere, and judges the fit.

For historical lens-correction sets, and to look at what a site's own tools find.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from callbacks.lens_files import write_lens
from formats.match_collections import read_matches
from processing.lens import LensFit, LensFitError, LensLimits, fit_lens
from services.errors import PlainError


def run_fit(
    path: Path,
    degree: int,
    size: tuple[int, int] | None = None,
    json_file: Path | None = None,
    limits: LensLimits | None = None,
) -> bool:
    """Fit a lens to the matches of a file, and print how good it is.

    Parameters
    ----------
    path : Path
        As `read_matches` takes it.
    degree : int
        Of the polynomial.
    size : (int, int), optional
        (height, width) of the tiles, in px; from the range of the matches if it is left out.
    json_file : Path, optional
        Where to write the fit, as `load_lens` reads it.
    limits : LensLimits, optional
        For the fit to be accepted.

    Returns
    -------
    bool
        Whether it is accepted.

    Raises
    ------
    PlainError
        If the file cannot be read, its matches determine no lens, or the fit cannot be written.
    """
    pairs = read_matches(path)
    try:
        fit = fit_lens(pairs, size, degree=degree, limits=limits)
    except LensFitError as error:
        raise PlainError(f"{path}: {error}") from error
    console = Console()
    console.print(figures(fit, guessed=size is None))
    verdict = "accepted" if fit.accepted else f"not accepted: {'; '.join(fit.reasons)}"
    console.print(f"\n{verdict}", highlight=False)
    if json_file is not None:
        try:
            write_lens(json_file, fit, source=str(path))
        except OSError as error:
            raise PlainError(f"{json_file} cannot be written: {error.strerror}") from error
    return fit.accepted


def figures(fit: LensFit, guessed: bool) -> Table:
    """Lay the figures of a fit out for the terminal.

    Parameters
    ----------
    fit : LensFit
    guessed : bool
        Whether the size of the tiles was taken from the matches.
    """
    height, width = fit.model.shape
    known = [pair for pair in fit.pairs if pair.inliers]
    worst = max(known, key=lambda pair: pair.rms)
    lost = len(fit.pairs) - len(known)
    lines = {
        "tiles": f"{len(fit.positions)} of {height} × {width} px"
        + (" (from the range of the matches)" if guessed else ""),
        "pairs": f"{len(fit.pairs)}"
        + (f", {lost} of them without a match that agrees" * (lost > 0)),
        "matches": f"{fit.matches}, of which {fit.inlier_share:.1%} agree",
        "translation only": f"{fit.uncorrected_px_median:.2f} px median",
        f"polynomial of degree {fit.model.degree}": f"{fit.residual_px_median:.3f} px median, "
        f"{fit.residual_px_rms:.3f} px RMS",
        "mean residual": f"{fit.residual_px_mean:.4f} px",
        "standard deviation": f"{fit.residual_px_std:.3f} px along an axis",
        "worst pair": f"{worst.a} – {worst.b}: {worst.rms:.3f} px RMS",
        "largest correction": f"{fit.model.largest_shift:.2f} px",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table
