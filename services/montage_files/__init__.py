"""Files of montages that other systems write and read: TilEM metadata, CSV, render, OME-TIFF.

So that montages taken long ago can be solved, and results go where a lab's tools look for them.
"""
