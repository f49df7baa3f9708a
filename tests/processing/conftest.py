"""Property tests without a deadline: the first example may pay for compiling a kernel."""

from hypothesis import settings

settings.register_profile("processing", deadline=None, database=None, derandomize=True)
settings.load_profile("processing")
