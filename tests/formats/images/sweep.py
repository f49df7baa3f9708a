"""Opens every file of a folder as an image, and says what came of it: for the tests of others.

    python -m tests.formats.images.sweep FOLDER [--pictures OUT]

Libraries ship odd and broken files with their source archives. None may end in anything but an
image or an error of one line. What was read is compared with Pillow, and drawn, to be looked at.
"""

from __future__ import annotations

import argparse
import resource
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from formats.images import Image, ImageFormatError, open_images

SIDE = 256  # px of a picture to look at
MAX_PAGES = 20  # that are read of a stack


@dataclass(frozen=True)
class Finding:
    """What came of a file.

    Attributes
    ----------
    result : {"read", "refused", "failed"}
        Failed is what must not be: a traceback, an error of several lines, a wrong window.
    told : str
    pixels : ndarray or None
        Of the first image, if it was read.
    """

    result: str
    told: str
    pixels: NDArray[np.generic] | None = None


def look(path: Path) -> Finding:
    """Read all images of a file, whole and in part."""
    try:
        images = open_images(path)
        read = [image.read() for image in images[:MAX_PAGES]]
        wrong = [reason for pair in zip(images, read, strict=False) if (reason := _wrong(*pair))]
    except ImageFormatError as error:
        return Finding("failed" if "\n" in str(error) else "refused", str(error))
    except Exception:
        return Finding("failed", traceback.format_exc())
    if wrong:
        return Finding("failed", wrong[0])
    first = images[0]
    told = f"{first.shape} {first.dtype} × {first.count}, {first.pixel_size} nm"
    return Finding("read", told, read[0])


def _wrong(image: Image, pixels: NDArray[np.generic]) -> str | None:
    """Say what is wrong with what was read, None if nothing is."""
    if (pixels.shape, pixels.dtype) != (image.shape, image.dtype):
        return f"{pixels.shape} {pixels.dtype} is not {image.shape} {image.dtype}"
    height, width = image.shape
    window = slice(height // 3, height // 2 + 1), slice(width // 4, width // 2 + 1)
    if not np.array_equal(image.read(window), pixels[window]):
        return "a window differs from the whole"
    return None


def by_pillow(path: Path) -> NDArray[np.generic] | None:
    """Read a file as grey by Pillow alone, None if it cannot."""
    try:
        with PIL.Image.open(path) as picture:
            deep = picture.mode in ("I", "F") or "16" in picture.mode
            return np.asarray(picture if deep else picture.convert("L"))
    except Exception:  # whatever it is: there is nothing to compare with
        return None


def _compared(pixels: NDArray[np.generic], other: NDArray[np.generic] | None) -> str:
    if other is None:
        return "Pillow cannot read it"
    if other.shape != pixels.shape:
        return f"Pillow has the shape {other.shape}"
    difference = np.abs(other.astype(float) - pixels)
    return f"{difference.mean():.2f} from Pillow, {difference.max():g} at most"


def _draw(pixels: NDArray[np.generic], path: Path) -> None:
    low, high = np.percentile(pixels, (0.5, 99.5))
    scaled = np.clip((pixels - low) / max(high - low, 1) * 255, 0, 255).astype(np.uint8)
    height, width = (max(round(n * SIDE / max(scaled.shape)), 1) for n in scaled.shape)
    cv2.imwrite(str(path), cv2.resize(scaled, (width, height), interpolation=cv2.INTER_AREA))


def main() -> int:
    """Sweep a folder; 1 if a file failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, help="a folder to draw what was read in")
    asked = parser.parse_args()
    if asked.pictures is not None:
        asked.pictures.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for path in sorted(path for path in asked.folder.rglob("*") if path.is_file()):
        finding = look(path)
        counts[finding.result] += 1
        compared = ""
        if finding.pixels is not None:
            compared = f"; {_compared(finding.pixels, by_pillow(path))}"
            if asked.pictures is not None:
                _draw(finding.pixels, asked.pictures / f"{path.parent.name}_{path.name}.png")
        print(
            f"{finding.result:<8} {path.relative_to(asked.folder)}: {finding.told}{compared}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counted = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{counted}; {peak:.0f} MB of memory at most")
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
