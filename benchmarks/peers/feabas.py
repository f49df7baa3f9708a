"""Stitch tiles with FEABAS: tiles are elastic meshes (finite elements), relaxed by their matches.

Y. Wu and A. Lichtman's group, github.com/YuelongWu/feabas, with the settings of its own
configuration for stitching; on one process.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# This folder comes first on the path, and its own name would hide the library.
sys.path.pop(0)

MESH_SIZES = 75, 150, 300  # px
MATCHER = {
    "spacings": None,
    "conf_thresh": 0.33,
    "residue_mode": "threshold",
    "pad": True,
    "sigma": 2.5,
    "coarse_downsample": 0.5,
    "fine_downsample": 1.0,
}
RESIDUE = {"residue_len": 5}  # px


def configure(folder):
    """Write the configuration that it reads from the folder it is started in; it has no default."""
    Path(folder, "configs").mkdir()
    settings = f"parallel_framework: process\ncpu_budget: 1\nworking_directory: {folder}\n"
    Path(folder, "configs", "general_configs.yaml").write_text(settings, encoding="utf-8")
    os.chdir(folder)


def main(source, target):
    """Read tiles, stitch them, write where their pixels lie and how long that took."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(target).absolute()
        stored = np.load(source)
        configure(folder)
        np.savez(target, **stitch(stored, folder))


def stitch(stored, folder):
    """Stitch tiles; give where their pixels lie and how long that took."""
    import cv2
    from feabas import constant
    from feabas.stitcher import Stitcher
    from matplotlib.tri import LinearTriInterpolator, Triangulation

    tiles, nominal = stored["tiles"], stored["nominal"]
    height, width = tiles.shape[1:]
    low, high = np.percentile(tiles[:, ::8, ::8], (0.5, 99.5))
    corners = np.rint(nominal[:, ::-1]).astype(int)
    boxes = np.hstack([corners, corners + np.array([width, height])])
    paths = [str(Path(folder, f"tile_{number:04d}.png")) for number in range(len(tiles))]
    for path, tile in zip(paths, tiles, strict=True):
        grey = np.clip((tile - low) * (254 / (high - low)) + 1, 1, 255)
        cv2.imwrite(path, grey.astype(np.uint8))
    began = time.process_time()
    stitcher = Stitcher(paths, boxes)
    stitcher.dispatch_matchers(
        min_overlap_width=25,
        margin=int(stored["reach"]) + 1,
        matcher_config=MATCHER,
        num_workers=1,
    )
    fixed, moving = constant.MESH_GEAR_FIXED, constant.MESH_GEAR_MOVING
    stitcher.filter_match_by_weight(0.1)
    stitcher.set_groupings(np.zeros(len(tiles), np.int32))
    stitcher.initialize_meshes(list(MESH_SIZES))
    stitcher.optimize_translation(target_gear=fixed, tol=1e-7, residue_threshold=0.5)
    group = {"tol": 1e-6, "residue_mode": "threshold", "continue_on_flip": True, **RESIDUE}
    stitcher.optimize_group_intersection(target_gear=fixed, **group)
    stitcher.optimize_translation(target_gear=fixed, tol=1e-7, residue_threshold=0.5)
    stitcher.optimize_elastic(use_groupings=True, target_gear=fixed, **group)
    stitcher.optimize_elastic(
        target_gear=moving, tol=1e-4, residue_mode="huber", continue_on_flip=True, **RESIDUE
    )
    stitcher.connect_isolated_subsystem()
    seconds = time.process_time() - began
    places = []
    for mesh in stitcher.meshes:
        start, end = (
            mesh.vertices_w_offset(gear=gear) for gear in (constant.MESH_GEAR_INITIAL, moving)
        )
        mesh_of_tile = Triangulation(*start.T, mesh.triangles)
        rows, columns = stored["pixels"].T
        both = [LinearTriInterpolator(mesh_of_tile, values)(columns, rows) for values in end.T]
        places.append(np.stack([np.ma.filled(value, np.nan) for value in both[::-1]], axis=-1))
    return {"places": np.array(places), "seconds": seconds}


if __name__ == "__main__":
    main(*sys.argv[1:])
