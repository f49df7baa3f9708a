"""Errors that a user can do something about.

The command line shows their message alone; of any other error it shows where it came from.
"""


class PlainError(RuntimeError):
    """An error whose message says what was expected, what was found and what to do."""
