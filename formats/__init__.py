"""Files of other systems, in and out: montages, point matches, images.

Files in, arrays and tables out; and back. What a lab has already, and what its tools read.
"""
