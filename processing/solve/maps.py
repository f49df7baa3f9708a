"""Solve a montage for one map a tile: a ridge-regularised affine, and one lens field for all.

Real tiles are not congruent. What freedom they have is found by matches that were held out: what
does not make those fit better is left out.
"""
