"""What every plan writes into its start document.

In one place, so that a run is described in the same words whatever made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any


def start_document(
    plan_name: str,
    plan_args: Mapping[str, Any],
    *,
    sample: str | dict[str, Any] | None,
    operator: str | None,
    hints: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Build the metadata of a run.

    Parameters
    ----------
    plan_name : str
    plan_args : mapping
        The plan's arguments as plain data: devices by their names.
    sample : str or dict, optional
        Left out if there is none, so that the RunEngine's own metadata shows.
    operator : str, optional
        Likewise.
    hints : mapping
        For callbacks that plot.
    **more
        Further entries.

    Returns
    -------
    dict
    """
    named = {"sample": sample, "operator": operator}
    return {
        "plan_name": plan_name,
        "plan_args": dict(plan_args),
        "temline_version": version("temline"),
        "hints": dict(hints),
        **{name: value for name, value in named.items() if value is not None},
        **more,
    }
