"""The errors that reach a caller; anything else is an internal error, told in the log only."""


class InvalidInput(ValueError):
    """What the caller sent cannot be used.

    The message is one sentence for the caller: it names the field, what it got and what is allowed.
    """


class Unavailable(RuntimeError):
    """The server cannot take the request now; the same request may succeed later."""
