"""`temline stitch`: a mosaic of tiles that somebody already has.

It needs no instrument, no server and no configuration: files in, files out.
"""

from services.stitch.request import StitchRequest
from services.stitch.run import run_stitch, stitch

__all__ = ["StitchRequest", "run_stitch", "stitch"]
