"""Image processing as pure functions on arrays.

No I/O and no Bluesky, so that every step can be tested, timed and reused alone.
"""
