"""`temline lens`: fits a lens to point matches that were measured elsewhere, and judges the fit.

For historical lens-correction sets, and to look at what a site's own tools find.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from callbacks.lens_files import write_lens
from formats.match_collections import read_matches
from processing.lens import Degree, LensFit, LensFitError, LensLimits, fit_lens
from services.errors import PlainError
from services.lens_picture import draw_lens


def parse_degree(text: str) -> Degree:
    """Read the degree of a lens as it is typed.

    Raises
    ------
    PlainError
        If it is neither a whole number nor auto.
    """
    if text == "auto":
        return "auto"
    if text.isdecimal() and 2 <= int(text) <= 9:
        return int(text)
    raise PlainError(f"--degree is {text!r}; it must be auto or a whole number from 2 to 9")


def run_fit(  # noqa: PLR0917
    path: Path,
    degree: Degree,
    size: tuple[int, int] | None = None,
    json_file: Path | None = None,
    limits: LensLimits | None = None,
    plot_file: Path | None = None,
) -> bool:
    """Fit a lens to the matches of a file, and print how good it is.

    Parameters
    ----------
    path : Path
        As `read_matches` takes it.
    degree : int or "auto"
        Of the polynomial.
    size : (int, int), optional
        (height, width) of the tiles, in px; from the range of the matches if it is left out.
    json_file : Path, optional
        Where to write the fit, as `load_lens` reads it.
    limits : LensLimits, optional
        For the fit to be accepted.
    plot_file : Path, optional
        Where to draw it.

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
    console.print()
    if fit.trials:
        console.print(degrees(fit))
    console.print(why(fit), highlight=False)
    verdict = "accepted" if fit.accepted else f"not accepted: {'; '.join(fit.reasons)}"
    console.print(f"\n{verdict}", highlight=False)
    if json_file is not None:
        try:
            write_lens(json_file, fit, source=str(path))
        except OSError as error:
            raise PlainError(f"{json_file} cannot be written: {error.strerror}") from error
    if plot_file is not None:
        draw_lens(fit, plot_file)
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
        "overlaps cover": f"{fit.covered:.0%} of the frame",
        "matches": f"{fit.matches}, of which {fit.inlier_share:.1%} agree",
        "translation only": f"{fit.uncorrected_px_median:.2f} px median",
        f"polynomial of degree {fit.model.degree}": f"{fit.residual_px_median:.3f} px median, "
        f"{fit.residual_px_rms:.3f} px RMS",
        "points held out": f"{fit.held_out_px_rms:.3f} px RMS",
        "mean residual": f"{fit.residual_px_mean:.4f} px",
        "standard deviation": f"{fit.residual_px_std:.3f} px along an axis",
        "worst pair": f"{worst.a} – {worst.b}: {worst.rms:.3f} px RMS",
        "largest correction": f"{fit.model.largest_shift:.2f} px",
        "tiles' own maps": spread(fit),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def spread(fit: LensFit) -> str:
    """Say how the tiles differ, but for their places."""
    if not fit.bent:
        return "none, tiles are shifted only"
    scales, rotations = np.transpose(list(fit.turns.values()))
    return (
        f"{fit.bend_px_rms:.2f} px RMS at the edges; scaled by {1e3 * (scales - 1).std():.2f} ‰, "
        f"turned by {rotations.std():.3f}° RMS"
    )


def degrees(fit: LensFit) -> Table:
    """Lay out what each degree leaves of pairs of tiles that it was not fitted to."""
    table = Table(box=None, pad_edge=False)
    table.add_column("pairs held out, px RMS")
    table.add_column("tiles shifted", justify="right")
    table.add_column("with maps of their own", justify="right")
    table.add_column()
    for trial in fit.trials:
        used = "← used" if trial == fit.trial else ""
        errors = f"{trial.shifts_px:.3f}", f"{trial.affines_px:.3f}"
        table.add_row(f"degree {trial.degree}", *errors, used)
    return table


def why(fit: LensFit) -> str:
    """Say why a degree was used, and what the next one would bring."""
    if fit.trial is None or fit.best_trial is None:
        return f"degree {fit.model.degree}: there are too few pairs of tiles to hold any out"
    if fit.trial == fit.best_trial:
        reason = "the lowest that is about as good as any"
    else:
        reason = f"given; {fit.best_trial.degree} is the lowest that is about as good as any"
    following = (
        f"degree {fit.next_trial.degree} would leave {fit.next_trial.held_out_px:.3f} px"
        if fit.next_trial
        else "the matches tell no higher one"
    )
    return f"degree {fit.model.degree}: {reason}; {following}"
