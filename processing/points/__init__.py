"""Points that overlapping tiles share, and least squares for how the tiles lie and are bent.

Montages are solved by it, and lenses are fitted by it.
"""

from processing.points.equations import RIGID, Bends, Equations, Frames
from processing.points.islands import components
from processing.points.reweighted import by_model, fit_points
from processing.points.table import Points, lengths
from processing.points.terms import basis, normalised, terms

__all__ = [
    "RIGID",
    "Bends",
    "Equations",
    "Frames",
    "Points",
    "basis",
    "by_model",
    "components",
    "fit_points",
    "lengths",
    "normalised",
    "terms",
]
