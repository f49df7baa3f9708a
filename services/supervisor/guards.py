"""Where a command's data may go: into the folder of its proposal, never out of the data's root.

What a client sends is a few plain names; what symbolic links make of them is looked at too.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from services.supervisor.commands import CommandRefusedError

MAX_PATH = 255
"""Characters of the longest path."""

MAX_LEVELS = 8
"""Names of the deepest path."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALLOWED = "letters, digits and . _ -, up to 64, the first a letter or digit"


@dataclass(frozen=True)
class Guards:
    """What proposals and paths an instrument allows.

    Parameters
    ----------
    data_root : Path
        The folder of all data; it need not exist yet.
    proposals : collection of str, optional
        Those that may be named; any, if it is left out.
    require_proposal : bool
        Whether each command has to name one.
    """

    data_root: Path
    proposals: Collection[str] | None = None
    require_proposal: bool = False

    def check(self, proposal: str | None, directory: str | None) -> tuple[str | None, str | None]:
        """Give proposal and directory as they are to be used.

        Parameters
        ----------
        proposal : str or None
        directory : str or None
            Relative to the root, in the proposal's folder; that folder, if it is left out.

        Returns
        -------
        (str or None, str or None)

        Raises
        ------
        CommandRefusedError
            If one is not allowed; the reason says what is.
        """
        self._check_proposal(proposal)
        if directory is None:
            directory = proposal
        if directory is None:
            return None, None
        names = _names("directory", directory)
        if proposal is not None and names[0] != proposal:
            raise CommandRefusedError(
                f"directory is {directory!r}, outside of the proposal's folder; "
                f"begin it with '{proposal}/'"
            )
        if proposal is None and names[0] in (self.proposals or ()):
            raise CommandRefusedError(
                f"directory is {directory!r}, in the folder of a proposal; name it as proposal"
            )
        self._resolve("directory", *([proposal] if proposal else []), "/".join(names))
        return proposal, "/".join(names)

    def confine(self, path: str) -> str:
        """Give a path that a client names, which lies below the root, without needless parts.

        Parameters
        ----------
        path : str
            Relative to the root.

        Raises
        ------
        CommandRefusedError
            If it is none, or leads out of the root.
        """
        confined = "/".join(_names("path", path))
        self._resolve("path", confined)
        return confined

    def _check_proposal(self, proposal: str | None) -> None:
        if proposal is None:
            if self.require_proposal:
                raise CommandRefusedError("proposal is missing; this instrument wants one")
        elif not _NAME.fullmatch(proposal):
            raise CommandRefusedError(f"proposal is {proposal!r}; it must be {_ALLOWED}")
        elif self.proposals is not None and proposal not in self.proposals:
            raise CommandRefusedError(
                f"proposal is {proposal!r}, which is none of this instrument's proposals"
            )

    def _resolve(self, what: str, *paths: str) -> None:
        """Check that each path, its symbolic links followed, lies in the one before or the root."""
        try:
            folders = [(self.data_root / path).resolve() for path in ("", *paths)]
        except (OSError, RuntimeError) as error:  # such as links in a circle
            raise CommandRefusedError(f"{what} {paths[-1]!r} cannot be followed: {error}") from None
        for outer, inner in pairwise(folders):
            if not inner.is_relative_to(outer):
                raise CommandRefusedError(f"{what} is {paths[-1]!r}, a link that leads elsewhere")


def _names(what: str, path: str) -> list[str]:
    """Give the names that a relative path is made of."""
    names = path.split("/")
    if len(path) > MAX_PATH or len(names) > MAX_LEVELS:
        raise CommandRefusedError(
            f"{what} has {len(path)} characters and {len(names)} levels; "
            f"{MAX_PATH} and {MAX_LEVELS} are the most"
        )
    if bad := [name for name in names if not _NAME.fullmatch(name)]:
        raise CommandRefusedError(
            f"{what} is {path!r}, with {bad[0]!r}; it must be a relative path with / between "
            f"names of {_ALLOWED}"
        )
    return names
