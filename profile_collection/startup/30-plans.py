"""Our plans, and bluesky's own; a montage has the configuration's defaults."""

from functools import partial, update_wrapper

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.magics import BlueskyMagics

from plans import (
    autofocus,
    brightfield,
    darkfield,
    estimate_montage,
    fly_montage,
    focus_series,
    lens_correction,
    montage,
    snap,
)
from services.configured_plans import montage_defaults

get_ipython().register_magics(BlueskyMagics)

montage, fly_montage, estimate_montage = (
    update_wrapper(partial(plan, **montage_defaults(config)), plan)
    for plan in (montage, fly_montage, estimate_montage)
)
