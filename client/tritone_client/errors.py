"""The one error of a request, and where it comes from."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc


class TritoneError(Exception):
    """The server refused or failed a request, or could not be reached; the text is the server's own sentence.

    Attributes:
        status: the gRPC status: "INVALID_ARGUMENT" (the request is wrong), "UNAVAILABLE" (server busy or
            unreachable: try again later), "DEADLINE_EXCEEDED", "INTERNAL", ...
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def rpc_errors_as_tritone_errors(url: str) -> Iterator[None]:
    """Turns gRPC's errors, the synchronous and the asyncio ones alike, into TritoneError."""
    try:
        yield
    except grpc.RpcError as error:
        status, details = error.code().name, error.details() or "the server gave no reason"
        # A busy server is UNAVAILABLE too, with a sentence of its own; only gRPC's text tells the two apart.
        if status == "UNAVAILABLE" and ("failed to connect" in details or "DNS resolution failed" in details):
            raise TritoneError(status, f"no server answers at {url} ({details})") from error
        raise TritoneError(status, details) from error
