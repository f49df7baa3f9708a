"""Our plans, and bluesky's own."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.magics import BlueskyMagics

from plans import autofocus, brightfield, darkfield, focus_series, montage, snap

get_ipython().register_magics(BlueskyMagics)
