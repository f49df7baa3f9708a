"""The plans that a client may ask for by name, and what the plan worker has for them.

A site adds its own by entry points; see docs/adding-a-plan.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from bluesky.utils import MsgGenerator
from pydantic import Field

from config import Config
from plans import (
    MontageResult,
    autofocus,
    brightfield,
    darkfield,
    estimate_montage,
    fly_montage,
    focus_series,
    lens_correction,
    make_safe,
    montage,
    snap,
)
from services.configured_plans import montage_defaults, take_references


@dataclass(frozen=True)
class Resources:
    """What a plan cannot be sent by a client. A parameter of this type is given it.

    Attributes
    ----------
    config : Config
    devices : mapping of str to device
        By name.
    gate : QualityGate or None
        The instrument's own.
    catalog : callable
        Gives the Tiled client of all runs; raises if Tiled does not answer.
    """

    config: Config
    devices: Mapping[str, Any]
    gate: Any
    catalog: Callable[[], Any]


def references(
    resources: Resources, camera: Any, stage: Any, scope: Any
) -> MsgGenerator[dict[str, str]]:
    """Take the bright and dark frames for montages, where and how the configuration says.

    Returns
    -------
    dict
        Uids of the runs, for the argument `references` of a montage.
    """
    return take_references(camera, stage, scope, resources.config)


def resume_montage(
    resources: Resources, run: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{1,64}$")]
) -> MsgGenerator[MontageResult]:
    """Take the tiles of a montage that its run does not have, with the arguments that it had.

    Parameters
    ----------
    run : str
        Uid of the run in Tiled.

    Raises
    ------
    ResumeError
        If there is no such run, it is no montage, or has all its tiles.
    """
    from services import resume

    catalog = resources.catalog()  # here and not in the plan: Tiled is asked before it begins
    try:
        found = catalog[run]
    except KeyError:
        raise resume.ResumeError(f"Tiled has no run {run}") from None
    return resume.resume_montage(found, resources.devices, resources.gate)


PLANS: tuple[tuple[str, Callable[..., MsgGenerator[Any]]], ...] = (
    ("montage", montage),
    ("fly_montage", fly_montage),
    ("estimate_montage", estimate_montage),
    ("resume_montage", resume_montage),
    ("snap", snap),
    ("focus_series", focus_series),
    ("autofocus", autofocus),
    ("references", references),
    ("brightfield", brightfield),
    ("darkfield", darkfield),
    ("lens_correction", lens_correction),
    ("make_safe", make_safe),
)

LIKE: Mapping[str, Callable[..., Any]] = {"fly_montage": montage, "estimate_montage": montage}
"""Where types and words of a plan's parameters stand, if not at the plan itself."""


def defaults_of(name: str, config: Config) -> dict[str, Any]:
    """Give the arguments that one of our plans has by the configuration.

    Parameters
    ----------
    name : str
        Of the plan.
    config : Config

    Returns
    -------
    dict
        For a montage, and for reference frames, which fit it only with its exposure.
    """
    if name in {"montage", *LIKE}:
        return montage_defaults(config)
    if name in {"brightfield", "darkfield"}:
        return {"frames": config.references.frames, "exposure": config.montage.exposure}
    return {}
