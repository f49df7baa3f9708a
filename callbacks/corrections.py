"""What the tiles of a montage are corrected with: bright and dark averages, and a lens model.

A montage names the runs that took them; their files may still be in the making when it begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from callbacks.folders import DataFolders
from callbacks.jobs import RunJobs
from callbacks.lens_files import await_lens, lens_path
from callbacks.references import ReferenceFiles, await_references, reference_files

logger = logging.getLogger(__name__)


class Corrections:
    """The corrections that a montage names.

    What does not appear in time, or does not fit, is left out: a montage is on disk and can be
    processed again, its tiles are not to wait for it.

    Parameters
    ----------
    uids : mapping of str to str or None
        ``references`` of the start document: uids of the runs ``bright``, ``dark`` and ``lens``.
    folders : DataFolders

    Attributes
    ----------
    references : ReferenceFiles or None
        Once they are there.
    lens : str or None
        Its file, once it is there.
    """

    def __init__(self, uids: Mapping[str, str | None], folders: DataFolders) -> None:
        self.references: ReferenceFiles | None = None
        self.lens: str | None = None
        self._references = reference_files(folders.references, uids)
        lens = uids.get("lens")
        self._lens = str(lens_path(folders.lenses, lens)) if lens else None
        self._awaited = 0
        self._ready: Callable[[], None] = lambda: None

    def wait(
        self,
        jobs: RunJobs,
        timeout: float,
        shape: tuple[int, int],
        flips: tuple[bool, bool],
        ready: Callable[[], None],
    ) -> None:
        """Have workers wait for the files, and call `ready` when that is over.

        Parameters
        ----------
        jobs : RunJobs
        timeout : float
            In s.
        shape : (int, int)
            (height, width) of the frames, in px.
        flips : (bool, bool)
            Whether the chain mirrors rows, and columns.
        ready : callable
        """
        self._ready = ready
        self._awaited = (self._references is not None) + (self._lens is not None)
        if self._references is not None:
            files = self._references
            jobs.submit(self._have_references, await_references, files, timeout, shape, flips)
        if self._lens is not None:
            jobs.submit(self._have_lens, await_lens, self._lens, timeout, shape)
        if not self._awaited:
            ready()

    def _have_references(self, _: None, error: Exception | None) -> None:
        if error is None:
            self.references = self._references
        self._arrived("flat field", error)

    def _have_lens(self, _: None, error: Exception | None) -> None:
        if error is None:
            self.lens = self._lens
        self._arrived("lens correction", error)

    def _arrived(self, what: str, error: Exception | None) -> None:
        if error is not None:
            logger.error("tiles are processed without %s: %s", what, error)
        self._awaited -= 1
        if not self._awaited:
            self._ready()
