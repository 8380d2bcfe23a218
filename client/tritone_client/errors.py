"""The errors of a request, and where they come from."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc


class TritoneError(Exception):
    """The server refused or failed a request, or could not be reached; the text is the server's own sentence.

    Attributes:
        status: the gRPC status: "INVALID_ARGUMENT" (the request is wrong), "UNAVAILABLE" (always an Unavailable),
            "DEADLINE_EXCEEDED", "INTERNAL", ...
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(TritoneError):
    """The server is busy, ends or cannot be reached; the same request may succeed later.

    A busy server says so at once, before any work, and about when to try again.
    """

    def __init__(self, message: str) -> None:
        super().__init__("UNAVAILABLE", message)


# Of a server that ends and unloads its models, just before it closes its endpoint.
_UNLOADED = "has no available versions"


def error_of(status: str, message: str) -> TritoneError:
    """The error of a gRPC status and the server's sentence."""
    if status == "UNAVAILABLE" or _UNLOADED in message:
        return Unavailable(message)
    return TritoneError(status, message)


@contextmanager
def rpc_errors_as_tritone_errors(url: str) -> Iterator[None]:
    """Turns gRPC's errors, the synchronous and the asyncio ones alike, into TritoneError."""
    try:
        yield
    except grpc.RpcError as error:
        status, details = error.code().name, error.details() or "the server gave no reason"
        # A busy server is UNAVAILABLE too, with a sentence of its own; only gRPC's text tells the two apart.
        if status == "UNAVAILABLE" and ("failed to connect" in details.lower() or "DNS resolution failed" in details):
            raise Unavailable(f"no server answers at {url} ({details})") from error
        raise error_of(status, details) from error
