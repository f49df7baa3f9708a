"""What can lie on the virtual microscope's stage by name; any other name is the path of an image.

Apart from the driver, so that a configuration is looked at without loading the microscope.
"""

NEUROPIL, POINTS, TAPE = "neuropil", "points", "tape"
BUILT_IN = NEUROPIL, POINTS, TAPE
