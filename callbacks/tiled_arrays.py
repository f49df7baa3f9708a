"""What the stock Tiled writer lacks for arrays: Zarr stores, and to show them before a run ends.

`TiledWriter` offers a registry of formats and a normaliser of documents for that; both are used.
"""

from __future__ import annotations

from typing import Any, ClassVar

from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY, ConsolidatorBase
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer
from event_model import DocumentNames

from callbacks.documents import ZARR_MIMETYPE


class ZarrConsolidator(ConsolidatorBase):
    """Registers a Zarr array, the first axis of which counts events.

    The base class would do, but call the array's folder a file, and then it cannot be downloaded.
    """

    supported_mimetypes: ClassVar = {ZARR_MIMETYPE}

    def __init__(self, stream_resource: Any, descriptor: Any) -> None:
        super().__init__(stream_resource, descriptor)
        for asset in self.assets:
            asset.is_directory = True


CONSOLIDATOR_REGISTRY[ZARR_MIMETYPE] = ZarrConsolidator


class ArraysAtOnce(RunNormalizer):
    """A normaliser that has each array registered with its first stream datum.

    In batches, the writer keeps stream datums back until there are many or the run ends; a picture
    that is to be watched while it grows would come too late. A stream datum that does not follow
    on the last makes it write both: so the first of each array gets one after it, of no items.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._shown: set[str] = set()

    def emit(self, name: DocumentNames, doc: Any) -> None:
        """Pass a document on to the writer; an event without the check of its schema.

        The check takes half the time that a document takes here. The tests make it, and Bluesky's
        RunEngine does on the raw ones.
        """
        if name is DocumentNames.event:
            self.dispatcher.process(name, doc)
            return
        super().emit(name, doc)
        if name is DocumentNames.stream_datum and doc["stream_resource"] not in self._shown:
            self._shown.add(doc["stream_resource"])
            super().emit(name, {**doc, "uid": f"{doc['uid']}/none", **_nothing_after(doc)})


def _nothing_after(doc: Any) -> dict[str, dict[str, int]]:
    """Give ranges without items that do not follow on those of a stream datum."""
    at = doc["indices"]["stop"] + 1
    number = doc["seq_nums"]["stop"]
    return {
        "indices": {"start": at, "stop": at},
        "seq_nums": {"start": number, "stop": number},
    }
