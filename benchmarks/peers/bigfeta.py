"""Solve a montage with BigFeta: least squares for an affine map a tile, held by a regularisation.

G. Mahalingam et al., eLife 11, e76534, 2022. It matches nothing itself: it gets temline's matches,
and its own defaults for all else.
"""

import sys
import time

import numpy as np

# This folder comes first on the path, and its own name would hide the library.
sys.path.pop(0)

# How stiff tiles are: first as by default; the benchmark takes what comes nearest to the truth.
# Their places are held no more than by default.
LAMBDAS, TRANSLATION_LAMBDA = (0.005, 0.5, 50.0, 5e3, 5e5), 0.005 * 0.005
ASSEMBLY = {
    "depth": [0],
    "explicit_weight_by_depth": None,
    "cross_pt_weight": 1.0,
    "montage_pt_weight": 1.0,
    "npts_min": 5,
    "npts_max": 500,
    "choose_random": False,
    "inverse_dz": True,
}
SECTION = "1.0"


def main(source, target):
    """Read matches, solve, write where the pixels of tiles lie and how long that took."""
    import renderapi
    from bigfeta import bigfeta, solve, utils

    stored = np.load(source)
    height, width = stored["tiles"].shape[1:]
    began = time.process_time()
    specs = [
        renderapi.tilespec.TileSpec(
            tileId=f"{number:05d}",
            z=1.0,
            width=width,
            height=height,
            layout=renderapi.tilespec.Layout(sectionId=SECTION),
            tforms=[renderapi.transform.AffineModel(B0=float(column), B1=float(row))],
        )
        for number, (row, column) in enumerate(stored["nominal"])
    ]
    matches = list(_matches(stored["pairs"], stored["points"]))
    pixels = stored["pixels"][:, ::-1]
    places = []
    for stiffness in LAMBDAS:
        tiles = renderapi.resolvedtiles.ResolvedTiles(tilespecs=specs, transformList=[])
        assembled, solved = bigfeta.create_CSR_A_fromobjects(
            tiles,
            matches,
            "AffineModel",
            [],
            {
                "default_lambda": stiffness,
                "translation_factor": TRANSLATION_LAMBDA / stiffness,
            },
            ASSEMBLY,
            return_draft_resolvedtiles=True,
        )
        parts = (assembled[name] for name in ("A", "weights", "reg", "x", "rhs"))
        utils.update_tilespecs(solved, solve.solve(*parts)["x"])
        places.append([spec.tforms[-1].tform(pixels)[:, ::-1] for spec in solved.tilespecs])
    seconds = (time.process_time() - began) / len(LAMBDAS)
    np.savez(target, places=np.array(places), seconds=seconds)


def _matches(pairs, points):
    """Return matches as render has them.

    Points are rows of [pair, row_a, column_a, row_b, column_b, sd, weight].
    """
    for number, (a, b) in enumerate(pairs):
        of_pair = points[points[:, 0] == number]
        yield {
            "pGroupId": SECTION,
            "qGroupId": SECTION,
            "pId": f"{a:05d}",
            "qId": f"{b:05d}",
            "matches": {
                "p": of_pair[:, [2, 1]].T.tolist(),
                "q": of_pair[:, [4, 3]].T.tolist(),
                "w": [1.0] * len(of_pair),
            },
        }


if __name__ == "__main__":
    main(*sys.argv[1:])
