"""The error of a fit that cannot be made."""


class LensFitError(ValueError):
    """Matches do not determine a lens model; the message says what they lack."""
