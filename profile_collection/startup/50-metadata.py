"""What every run records beside its plan: metadata, and a baseline of what is reachable."""

from services.engine import add_baseline

reachable = {name: device for name, device in devices.items() if name not in unreachable}
baseline = add_baseline(RE, config, reachable)
