"""What a person at the terminal sees: a table of tiles, a progress bar, and the mosaic's thumbnail.

They read documents like every other consumer, so they work at a console as in the demo.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bluesky.callbacks import LiveTable
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from callbacks.by_run import ByRun, Callback, events_of
from processing.mosaic import display_range

TABLE_FIELDS = ("tile_row", "tile_column", "mean", "focus", "verdict", "faults")
THUMBNAIL = 1024  # largest side of a preview, in px
TILE_STREAMS = frozenset({"primary", "tile"})
TAKEN, PROCESSED = "taken", "processed"


def tile_table(fields: Sequence[str] = TABLE_FIELDS, out: Callable[[str], Any] = print) -> ByRun:
    """Make a live table of the tiles of processed runs: Bluesky's own, one for each run.

    Parameters
    ----------
    fields : sequence of str
        Data keys of the stream `tile`.
    out : callable
        What prints a line.

    Returns
    -------
    ByRun
        A callback for the documents of processed runs.
    """

    def factory(start: dict[str, Any]) -> Callback | None:
        if "raw_uid" not in start or "montage" not in start:
            return None
        table = LiveTable(
            list(fields), stream_name="tile", min_width=9, separator_lines=False, out=out
        )

        def feed(name: str, doc: dict[str, Any]) -> None:
            # The scan's number is what it prints at the end.
            table(name, {**doc, "scan_id": doc["raw_scan_id"]} if name == "start" else doc)

        return feed

    return ByRun(factory)


class MontageProgress:
    """A progress bar for montages, with the time that is left and the tiles behind.

    Subscribe it to the RunEngine for the tiles that are taken, and give it the documents of the
    tile processor for those that are processed: it tells them apart. The bar ends with the
    processed run, or with the raw one if there is none.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where it is drawn.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[behind]}"),
            console=console,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}  # by raw uid and what is counted
        self._tiles: dict[tuple[str, str], set[int]] = {}
        self._router = ByRun(self._factory)
        self._lock = threading.Lock()  # raw and processed documents come on different threads

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document of a raw or processed run in."""
        with self._lock:
            self._router(name, doc)

    @property
    def running(self) -> bool:
        """Whether the bar is being drawn."""
        return self._progress.live.is_started

    def fraction(self, raw_uid: str, what: str = TAKEN) -> float:
        """Give the share of a montage's tiles that is done, 0 to 1.

        Parameters
        ----------
        raw_uid : str
            Of the raw run.
        what : {"taken", "processed"}
        """
        task = self._progress.tasks[self._tasks[raw_uid, what]]
        return task.completed / task.total if task.total else 1.0

    def _factory(self, start: dict[str, Any]) -> Callback | None:
        if "montage" not in start:
            return None
        what = PROCESSED if "raw_uid" in start else TAKEN
        raw_uid = start.get("raw_uid", start["uid"])
        key = raw_uid, what
        total = len(start["montage"]["tiles"])
        self._tasks[key] = self._progress.add_task(what, total=total, behind="")
        self._tiles[key] = set()
        self._progress.start()

        streams: set[str] = set()

        def follow(name: str, doc: dict[str, Any]) -> None:
            if name == "descriptor" and doc["name"] in TILE_STREAMS:
                streams.add(doc["uid"])
            elif doc.get("descriptor") in streams and "tile_index" in doc.get("data", ()):
                events = [event["data"] for event in events_of(name, doc)]
                self._tiles[key].update(data["tile_index"] for data in events)
                behind = events[-1].get("behind", 0)
                self._progress.update(
                    self._tasks[key],
                    completed=len(self._tiles[key]),
                    behind=f"{behind} behind" if behind else "",
                )
            elif name == "stop":
                self._progress.stop_task(self._tasks[key])
                if all(task.finished or task.stop_time for task in self._progress.tasks):
                    self._progress.stop()

        return follow


class Thumbnail:
    """A small picture of an array, which IPython and Jupyter show by themselves.

    Parameters
    ----------
    image : array_like, shape (height, width) or (1, height, width)
        Grey values; scaled to between their 0.5 and 99.5 percentile, places without a tile apart.
    largest : int
        Largest side, in px; a larger image is reduced.

    Raises
    ------
    ValueError
        If it is not one image.
    """

    def __init__(self, image: ArrayLike, largest: int = THUMBNAIL) -> None:
        array = np.asarray(image)
        if array.ndim == 3 and len(array) == 1:
            array = array[0]
        if array.ndim != 2 or not array.size:
            raise ValueError(f"image has shape {array.shape}; it must be (height, width)")
        self.pixels = _grey(array)
        if max(array.shape) > largest:
            picture = Image.fromarray(self.pixels)
            picture.thumbnail((largest, largest))
            self.pixels = np.asarray(picture)

    def __repr__(self) -> str:
        height, width = self.pixels.shape
        return f"<Thumbnail {width} × {height}; .show() opens it, .save(path) writes it>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="png")
        return buffer.getvalue()

    def save(self, path: str) -> None:
        """Write it to an image file; the name's ending tells the format."""
        Image.fromarray(self.pixels).save(path)

    def show(self) -> Any:
        """Draw it with matplotlib; gives the figure."""
        import matplotlib.pyplot as plt  # noqa: PLC0415 - slow to import, and seldom needed

        height, width = self.pixels.shape
        figure, axes = plt.subplots(figsize=(8, 8 * height / width), layout="constrained")
        axes.imshow(self.pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        plt.show(block=False)
        return figure


def thumbnail(source: Any, largest: int = THUMBNAIL) -> Thumbnail:
    """Show the mosaic of a processed run, or any image.

    Parameters
    ----------
    source : BlueskyRun, tiled array client, or array_like
        A processed montage from Tiled, one of its arrays, or pixels.
    largest : int
        Largest side, in px.

    Returns
    -------
    Thumbnail

    Raises
    ------
    LookupError
        If the run has no mosaic, or not yet.

    Examples
    --------
    >>> thumbnail(tiled_client[processed_uid])
    """
    if hasattr(source, "start") and hasattr(source, "keys"):
        source = _mosaic_thumbnail(source)
    return Thumbnail(source.read() if hasattr(source, "read") else source, largest)


def _mosaic_thumbnail(run: Any) -> Any:
    try:
        return run["mosaic"]["thumbnail"]
    except KeyError:
        raise LookupError(
            f"run {run.start['uid']} ({run.start.get('plan_name')}) has no mosaic yet: it comes "
            "some seconds after the last tile, in a montage's processed run; get the run anew then"
        ) from None


def _grey(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    black, white = display_range(image.astype(np.uint16))
    grey = (image.astype(np.float32) - black) * (255 / (white - black))
    return np.clip(grey, 0, 255).astype(np.uint8)
