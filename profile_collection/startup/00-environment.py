"""The configuration, and the EPICS environment before anything reads it."""

import logging

from services.environment import set_environment
from services.runtime import load_joined

logging.basicConfig(format="%(levelname)s: %(message)s")
config = load_joined().config
set_environment(config)
