"""What every plan writes into its start document.

In one place, so that a run is described in the same words whatever made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from plans import checks


def start_document(
    plan_name: str,
    plan_args: Mapping[str, Any],
    *,
    sample: str | Mapping[str, Any] | None,
    operator: str | None,
    hints: Mapping[str, Any],
    md: Mapping[str, Any] | None = None,
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
    md : mapping, optional
        The user's own, which goes over all else.
    **more
        Further entries.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If sample or operator is something else.
    """
    named = {"sample": checks.sample(sample), "operator": checks.text("operator", operator)}
    return {
        "plan_name": plan_name,
        "plan_args": dict(plan_args),
        "temline_version": version("temline"),
        "hints": dict(hints),
        **{name: value for name, value in named.items() if value is not None},
        **more,
        **(md or {}),
    }
