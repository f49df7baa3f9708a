"""Opens every file of a folder as an image, and says what came of it: for the tests of others.

    python -m tests.formats.images.sweep FOLDER [--pictures FOLDER]

Libraries ship odd and broken files with their source archives. None may end in anything but an
image or an error of one line; what came out is compared with Pillow's reading where that has one.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from formats.images import ImageFormatError, open_images

MEGA = 1e6
SLOW = 5.0  # s
SIDE = 256  # px of a picture to look at
MAX_PAGES = 20  # that are read of a stack


def look(path: Path, pictures: Path | None) -> tuple[str, str]:
    """Read a file; give what it is (read, refused, failed), and what there is to say of it."""
    try:
        images = open_images(path)
        read = [image.read() for image in images[:MAX_PAGES]]
    except ImageFormatError as error:
        return ("refused", str(error)) if "\n" not in str(error) else ("failed", repr(str(error)))
    except BaseException:
        return "failed", traceback.format_exc()
    for image, pixels in zip(images, read, strict=False):
        if pixels.shape != image.shape or pixels.dtype != image.dtype or pixels.ndim != 2:
            return "failed", f"{pixels.shape} {pixels.dtype} is not {image.shape} {image.dtype}"
        height, width = image.shape
        window = slice(height // 3, height // 2 + 1), slice(width // 4, width // 2 + 1)
        if not np.array_equal(image.read(window), pixels[window]):
            return "failed", "a window differs from the whole"
    if pictures is not None:
        _draw(read[0], pictures / f"{path.parent.name}_{path.name}.png")
    first = images[0]
    told = f"{first.shape} {first.dtype} × {first.count}, {first.pixel_size} nm"
    return "read", f"{told}; {_beside_pillow(path, read[0])}"


def _beside_pillow(path: Path, pixels: np.ndarray) -> str:
    """Say how far the image is from what Pillow reads, as grey."""
    try:
        with PIL.Image.open(path) as picture:
            other = np.asarray(
                picture
                if picture.mode in ("I", "F") or "16" in picture.mode
                else picture.convert("L")
            )
    except Exception as error:
        return f"Pillow: {type(error).__name__}"
    if other.shape != pixels.shape:
        return f"Pillow: shape {other.shape}"
    difference = np.abs(other.astype(float) - pixels)
    return f"Pillow: {np.mean(difference):.2f} apart, {np.max(difference):g} at most"


def _draw(pixels: np.ndarray, path: Path) -> None:
    low, high = np.percentile(pixels, (0.5, 99.5))
    scaled = np.clip((pixels - low) / max(high - low, 1) * 255, 0, 255).astype(np.uint8)
    scale = SIDE / max(scaled.shape)
    cv2.imwrite(
        str(path),
        cv2.resize(
            scaled,
            None,
            fx=scale,
            fy=scale,
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST,
        ),
    )


def main() -> int:
    """Sweep a folder; 1 if a file ended in anything but an image or an error of one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, help="draw what was read here, to be looked at")
    asked = parser.parse_args()
    if asked.pictures is not None:
        asked.pictures.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for path in sorted(path for path in asked.folder.rglob("*") if path.is_file()):
        begun = time.monotonic()
        result, told = look(path, asked.pictures)
        seconds = time.monotonic() - begun
        counts[result] += 1
        print(
            f"{result:<8} {path.relative_to(asked.folder)}: {told}"
            + (f" [{seconds:.1f} s]" if seconds > SLOW else ""),
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        ", ".join(f"{count} {name}" for name, count in counts.items()), f"; {peak:.0f} MB at most"
    )
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
