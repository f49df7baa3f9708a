"""The settings of an instrument: layered YAML, checked by one model.

`load` merges the layers and remembers where each value came from.
"""

from config.loader import ConfigError, Loaded, load
from config.model import Config

__all__ = ["Config", "ConfigError", "Loaded", "load"]
