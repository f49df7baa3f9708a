"""The catalogue of runs, if Tiled answers, and montages that are gone on with from there."""

from functools import partial

from services.processes import tiled_access
from services.resume import resume_montage
from services.tiled_server import answers

tiled_uri, tiled_key = tiled_access(config)
catalog = None
if answers(tiled_uri):
    from tiled.client import from_uri

    catalog = from_uri(tiled_uri, api_key=tiled_key)

resume_montage = partial(resume_montage, devices=devices, gate=gate)
