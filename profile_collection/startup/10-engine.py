"""The RunEngine."""

from services.engine import make_run_engine

RE = make_run_engine(config)
