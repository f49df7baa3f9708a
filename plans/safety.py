"""Leaving the microscope safe, whatever ends a plan.

Safe is: beam blanked and screen down. A camera stops acquiring when it is unstaged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus, MsgGenerator

_log = logging.getLogger(__name__)
_TRIES = 3


def finally_do(
    plan: MsgGenerator[Any], cleanup: Callable[[], MsgGenerator[Any]]
) -> MsgGenerator[Any]:
    """Run a plan, then another to clean up, whether the first ended well or not.

    `bluesky.preprocessors.finalize_wrapper`, but what went wrong first is what is raised: if the
    clean-up fails after that, it is logged and noted on the error.

    Parameters
    ----------
    plan : generator
        Messages.
    cleanup : callable
        Returns messages. Not run by `RE.halt()`.

    Returns
    -------
    Any
        What the plan returns.
    """
    try:
        result = yield from plan
    except GeneratorExit:
        raise
    except BaseException as error:
        try:
            yield from insist(cleanup)
        except Exception as failure:
            _log.critical("%s", failure)
            error.add_note(f"Then the clean-up failed too: {failure}")
        raise
    yield from cleanup()
    return result


def insist(step: Callable[[], MsgGenerator[Any]]) -> MsgGenerator[None]:
    """Do a step of a clean-up; do it again if the late failure of something else ends it.

    The RunEngine throws the failure of any device into whatever plan is running; so one that was
    given up with the plan that waited for it can end the clean-up of that plan.

    Parameters
    ----------
    step : callable
        Returns messages that may be sent more than once.

    Raises
    ------
    Exception
        What ended the last of three tries.
    """
    for remaining in reversed(range(_TRIES)):
        try:
            yield from step()
        except FailedStatus:
            if not remaining:
                raise
        else:
            return


def leaves_safe(plan: MsgGenerator[Any], scope: Any) -> MsgGenerator[Any]:
    """Run a plan, then make the microscope safe, whether it ended well or not.

    `RE.halt()` runs no plan to clean up. It is safe all the same, because the RunEngine unstages
    the microscope, which makes itself safe then.

    Parameters
    ----------
    plan : generator
        Messages.
    scope : device

    Returns
    -------
    Any
        What the plan returns.
    """
    return (yield from finally_do(plan, partial(make_safe, scope)))


def staged(plan: MsgGenerator[Any], device: Any) -> MsgGenerator[Any]:
    """Stage a device for a plan, and unstage it after, whether the plan ended well or not.

    `bluesky.preprocessors.stage_wrapper`, but what went wrong first is what is raised.

    Parameters
    ----------
    plan : generator
        Messages.
    device : device

    Returns
    -------
    Any
        What the plan returns.
    """

    def inner() -> MsgGenerator[Any]:
        yield from bps.stage(device)
        return (yield from plan)

    return (yield from finally_do(inner(), partial(bps.unstage, device)))


def illuminated(plan: MsgGenerator[Any], scope: Any) -> MsgGenerator[Any]:
    """Raise the screen and let the beam through for a plan, and make the microscope safe after it.

    Parameters
    ----------
    plan : generator
        Messages.
    scope : device

    Returns
    -------
    Any
        What the plan returns.
    """

    def inner() -> MsgGenerator[Any]:
        yield from bps.stage(scope)
        return (yield from plan)

    return (yield from leaves_safe(inner(), scope))


def make_safe(scope: Any) -> MsgGenerator[None]:
    """Blank the beam and lower the screen.

    Parameters
    ----------
    scope : device

    Raises
    ------
    devices.NotSafeError
        If it cannot be done.

    Examples
    --------
    >>> RE(make_safe(scope))
    """
    yield from bps.unstage(scope)
