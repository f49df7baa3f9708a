"""Makes tile specs of `render`, with the keys of those in its own examples."""

from __future__ import annotations

from typing import Any

from tests.formats.tiles import DOWN, HEIGHT, RIGHT, WIDTH, Tiles

TILES = Tiles()
MPICBG = "mpicbg.trakem2.transform"


def affine(
    x: float, y: float, linear: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
) -> dict[str, Any]:
    data = " ".join(f"{value:.12f}" for value in (*linear, x, y))
    return {"type": "leaf", "className": f"{MPICBG}.AffineModel2D", "dataString": data}


def spec(number: int, url: str, *transforms: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return a tile spec with the keys of those in `render`'s own examples."""
    row, column = TILES.cells[number]
    own = transforms or (affine(column * RIGHT + 7000.0, row * DOWN - 900.0),)
    return {
        "tileId": f"1503041411210{row:03d}{column:03d}.3407.0",
        "z": 3407.0,
        "minX": 0.0,
        "minY": 0.0,
        "maxX": float(WIDTH),
        "maxY": float(HEIGHT),
        "width": float(WIDTH),
        "height": float(HEIGHT),
        "minIntensity": 0.0,
        "maxIntensity": 255.0,
        "layout": {
            "sectionId": "3407.0",
            "temca": "7",
            "camera": "0",
            "imageRow": row + 21,
            "imageCol": column + 75,
            "stageX": column * RIGHT * 4.0,
            "stageY": -row * DOWN * 4.0,
            "rotation": 180.0,
            "pixelsize": 4.0,
        },
        "mipmapLevels": {"0": {"imageUrl": url}, "1": {"imageUrl": "file:/nowhere.jpg"}},
        "transforms": {"type": "list", "specList": list(own)},
        "meshCellSize": 64.0,
    } | changed
