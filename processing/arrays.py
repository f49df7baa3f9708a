"""Arrays that results are put in: made, or checked where a caller gives one.

So that every step refuses an array that does not fit in the same words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def output_array(
    out: NDArray[Any] | None, shape: tuple[int, int], dtype: DTypeLike
) -> NDArray[Any]:
    """Give the array for a result: the caller's, if it fits, or else a new one.

    Parameters
    ----------
    out : ndarray of `dtype`, shape (height, width), optional
    shape : (int, int)
        (height, width) in px.
    dtype : dtype

    Returns
    -------
    ndarray of `dtype`, shape (height, width)
        C-contiguous; a new one is not cleared.

    Raises
    ------
    TypeError
        If `out` is of another type, or not contiguous.
    ValueError
        If `out` has another shape.
    """
    wanted = np.dtype(dtype)
    if out is None:
        return np.empty(shape, wanted)
    if out.dtype != wanted or not out.flags.c_contiguous:
        raise TypeError(f"out is {out.dtype}; it must be a C-contiguous {wanted} array")
    if out.shape != shape:
        raise ValueError(f"out is {out.shape} px; it must be {shape}")
    return out
