"""Stitch tiles with multiview-stitcher: phase correlation of overlaps, then a global optimisation.

M. Albert, multiview-stitcher (Zenodo, 2024). At full resolution, on one thread.
"""

import sys
import time
import warnings

import numpy as np

# This folder comes first on the path, and its own name would hide the library.
sys.path.pop(0)
import dask
from multiview_stitcher import msi_utils, registration
from multiview_stitcher import spatial_image_utils as si_utils


def main(source, target):
    """Read tiles, stitch them, write where they lie and how long that took."""
    stored = np.load(source)
    warnings.simplefilter("ignore")
    dask.config.set(scheduler="single-threaded")
    key = si_utils.DEFAULT_TRANSFORM_KEY
    start = time.process_time()
    views = [
        msi_utils.get_msim_from_sim(
            si_utils.get_sim_from_array(
                tile,
                dims=["y", "x"],
                scale={"y": 1.0, "x": 1.0},
                translation={"y": place[0], "x": place[1]},
                transform_key=key,
            ),
            scale_factors=[],
        )
        for tile, place in zip(stored["tiles"], stored["nominal"].astype(float), strict=True)
    ]
    moves = registration.register(
        views,
        transform_key=key,
        new_transform_key="registered",
        reg_channel_index=0,
        registration_binning={"y": 1, "x": 1},
    )
    moved = np.array([np.asarray(move).reshape(-1, 3, 3)[0, :2, 2] for move in moves])
    seconds = time.process_time() - start
    np.savez(target, positions=stored["nominal"] + moved, seconds=seconds)


main(*sys.argv[1:])
