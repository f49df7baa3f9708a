"""The smallest demo: what its tests ask of the command line and of the configuration."""

TINY = ("demo", "--rows", "2", "--columns", "2", "--tile-size", "256")
FEW_FRAMES = {"TEMLINE_REFERENCES__FRAMES": "4"}
