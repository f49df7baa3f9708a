"""Stitch tiles with m2stitch, which does what MIST does (J. Chalfoun et al., Sci. Rep. 7, 2017)."""

import sys
import time
import warnings

import numpy as np

# This folder comes first on the path, and its own name would hide the library.
sys.path.pop(0)
import m2stitch


def main(source, target):
    """Read tiles, stitch them, write where they lie and how long that took."""
    stored = np.load(source)
    tiles, nominal = stored["tiles"].astype(np.float32), stored["nominal"]
    # Its correlation divides by the images' norms with their mean, so that none of a bright field
    # would pass any threshold.
    tiles -= tiles.mean()
    warnings.simplefilter("ignore")
    start = time.process_time()
    grid, _ = m2stitch.stitch_images(
        tiles,
        *stored["grid"].T,
        row_col_transpose=False,
        position_initial_guess=nominal,
        overlap_diff_threshold=100 * 2 * float(stored["reach"]) / min(tiles.shape[1:]),
        ncc_threshold=0.2,
    )
    seconds = time.process_time() - start
    np.savez(target, positions=grid[["y_pos", "x_pos"]].to_numpy(float), seconds=seconds)


main(*sys.argv[1:])
