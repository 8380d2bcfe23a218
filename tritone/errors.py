"""The errors that reach a caller; anything else is an internal error, told in the log only.

A unary call's status travels as gRPC's. A stream's cannot: Triton sends it only to clients that ask for it with the
metadata `triton_grpc_error`, and Triton 2.51 crashes when some such streams fail at the same time (seen here: within a
few dozen). So nobody asks for it, and the status is the beginning of a stream's message: "UNAVAILABLE: try again".
"""

import re

_STREAM_MESSAGE = re.compile(r"(?P<status>INVALID_ARGUMENT|UNAVAILABLE|CANCELLED|INTERNAL): (?P<message>.*)", re.DOTALL)


class InvalidInput(ValueError):
    """What the caller sent cannot be used.

    The message is one sentence for the caller: it names the field, what it got and what is allowed.
    """


class Unavailable(RuntimeError):
    """The server cannot take the request now; the same request may succeed later."""


def stream_message(status: str, message: str) -> str:
    """A stream's error as the text that Triton sends."""
    return f"{status}: {message}"


def split_stream_message(text: str) -> tuple[str, str]:
    """The status and the message of a stream's error; UNKNOWN for one that comes from Triton itself."""
    told = _STREAM_MESSAGE.fullmatch(text)
    return (told["status"], told["message"]) if told else ("UNKNOWN", text)
