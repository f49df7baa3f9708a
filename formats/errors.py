"""What is wrong with a file, for its user: the message says where, what was found, what to do.

The command line shows it as one line, without a traceback.
"""


class FormatError(ValueError):
    """A file could not be read, or not be written, as what it should be.

    Parameters
    ----------
    message : str
        Becomes one line, whatever the names of files or the errors of libraries bring into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
