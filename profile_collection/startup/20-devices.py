"""The devices of the configuration, each under its own name."""

from services.engine import connect_devices, make_devices

devices = make_devices(config)
unreachable = connect_devices(devices, config.epics.connection_timeout)
globals().update(devices)
