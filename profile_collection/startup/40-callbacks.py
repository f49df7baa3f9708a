"""What takes the documents: Tiled, the processing of montages, their quality, a live table."""

import atexit

from callbacks.live import LiveTable
from services.engine import make_pipeline

live = LiveTable()
pipeline = make_pipeline(config, [live])
pipeline.subscribe(RE)
gate = pipeline.quality
atexit.register(pipeline.close, config.processing.timeout)
