"""Makes the hardware safe without a plan worker, by a few process variables.

A worker that was killed cleans nothing up; its beam must not wait until the next one has started.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)


def make_safe(prefix: str, puts: Mapping[str, int | float | str], timeout: float) -> dict[str, str]:
    """Write what makes the hardware safe, one after the other; a failure stops none of the rest.

    Parameters
    ----------
    prefix : str
        Of the process variables.
    puts : mapping
        Values by the names less the prefix, the most urgent first.
    timeout : float
        For each, in s.

    Returns
    -------
    dict
        What could not be written, and why.
    """
    # caproto's own client: pyepics would take over this process, which is a server.
    from caproto.sync.client import write

    problems = {}
    for name, value in puts.items():
        try:
            write(prefix + name, value, notify=True, timeout=timeout, repeater=False)
        except Exception as error:  # whatever it is, the next one must be tried
            problems[prefix + name] = f"{type(error).__name__}: {error}"
            log.error("%s%s could not be set to %r: %s", prefix, name, value, error)
    return problems
