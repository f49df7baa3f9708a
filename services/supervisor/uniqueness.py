"""Sees to it that nobody else serves the same process variables.

Two servers of one name would each answer some of the clients, and drive the same hardware.
"""

from __future__ import annotations

from services.errors import PlainError

SEARCH_TIMEOUT = 1.0  # s for another server of the same PVs to answer


class AlreadyServedError(PlainError):
    """Another server has the same process variables."""


def refuse_second_server(prefix: str) -> None:
    """Raise if the command PVs are served already.

    Parameters
    ----------
    prefix : str
        Of the command PVs, such as "TEM:CMD:".

    Raises
    ------
    AlreadyServedError
        It says by whom.
    """
    from caproto.sync.client import read

    try:
        answer = read(f"{prefix}InstanceID", timeout=SEARCH_TIMEOUT, repeater=False)
    except Exception:  # nobody answers, as it should be
        return
    owner = bytes(answer.data).decode(errors="replace").rstrip("\0")
    raise AlreadyServedError(
        f"{prefix}* is served already by {owner}: stop that one, or choose another epics.prefix"
    )
