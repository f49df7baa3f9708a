"""Which tiles hang together by the pairs that they are matched in."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components


def components(n_tiles: int, ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return each tile the number of the set that it hangs together with, the largest being 0.

    Parameters
    ----------
    n_tiles : int
    ends : ndarray of int, shape (m, 2)
        Indices (a, b) of the tiles of each pair.

    Returns
    -------
    ndarray of int, shape (n_tiles,)
    """
    graph = sp.coo_array((np.ones(len(ends)), ends.T), shape=(n_tiles, n_tiles))
    count, labels = connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    rank = np.empty(count, dtype=np.intp)
    rank[order] = np.arange(count)
    return np.asarray(rank[labels])
