"""What the Hub's room refuses; both are ValueErrors."""


class ConversionError(ValueError):
    """An official checkpoint cannot be converted; the message names the file, the parameter and the fix."""


class IncompleteModelError(ValueError):
    """A model folder may not be published; the message lists everything that is wrong with it."""
