"""What takes the documents: Tiled, the processing of montages, their quality, what one sees."""

import atexit

from bluesky.callbacks.best_effort import BestEffortCallback
from event_model import RunRouter

from callbacks.live import MontageProgress, thumbnail, tile_table
from services.engine import make_pipeline

progress = MontageProgress()
pipeline = make_pipeline(config, [tile_table(), progress])
pipeline.subscribe(RE)
RE.subscribe(progress)

# Montages have a table of their own, of processed tiles.
bec = BestEffortCallback()
RE.subscribe(RunRouter([lambda _, start: ([] if "montage" in start else [bec], [])]))

gate = pipeline.quality
atexit.register(pipeline.close, config.processing.timeout)
