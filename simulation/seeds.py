"""Random numbers that each frame has of its own, whatever was drawn before.

So a frame does not depend on the order in which others were made.
"""

from __future__ import annotations

import numpy as np


def frame_rng(seed: np.random.SeedSequence, number: int) -> np.random.Generator:
    """Return the generator of one frame, from the seed of what is drawn and the frame's number."""
    return np.random.default_rng([*np.atleast_1d(seed.entropy), *seed.spawn_key, number])
