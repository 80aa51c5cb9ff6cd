"""What the Hub's room refuses."""


class IncompleteModelError(ValueError):
    """A model folder may not be published; the message lists everything that is wrong with it."""
