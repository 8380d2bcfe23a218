"""The way to the servers: TLS, several servers behind one name, and when to try again."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc
import grpc.aio

# gRPC's default limit of a received message, 4 MB, is about a minute of speech; ten minutes are 38 MB.
# Requests go round all servers that the name stands for; one that cannot be reached is passed over.
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
]

# A request that a server cannot take (it is busy, stopping or gone) is sent again after 0.1, 0.2, 0.4 ... s; each pause
# is drawn from half to one and a half of that, lest all clients come back together.
DEFAULT_NUM_RETRIES = 3
_FIRST_RETRY_PAUSE_S = 0.1


@dataclass(frozen=True)
class Tls:
    """How to speak TLS with a server; each is the path of a PEM file.

    Attributes:
        root_certificates: whose signature proves the server; None: the authorities that gRPC knows.
        certificate, key: what proves the client, for a server that asks for it. Both or neither.
    """

    root_certificates: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and its key belong together: only one of them is given")

    def credentials(self) -> grpc.ChannelCredentials:
        """The files' contents for gRPC.

        Raises:
            OSError: a file cannot be read.
        """
        paths = (self.root_certificates, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(None if path is None else Path(path).read_bytes() for path in paths))


class Deadline:
    """What is left of a request's time over all its attempts."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Seconds until then, none when they are over; None: there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def is_within(self, pause_s: float) -> bool:
        """Whether nothing would be left after a pause."""
        return self._end is not None and time.monotonic() + pause_s >= self._end


def open_channel(url: str, tls: Tls | None) -> grpc.Channel:
    """To the servers at `url`; `tls` None: plain.

    Raises:
        OSError: a file of `tls` cannot be read.
    """
    if tls is None:
        return grpc.insecure_channel(url, options=_CHANNEL_OPTIONS)
    return grpc.secure_channel(url, tls.credentials(), options=_CHANNEL_OPTIONS)


def open_async_channel(url: str, tls: Tls | None) -> grpc.aio.Channel:
    """As `open_channel`, for asyncio."""
    if tls is None:
        return grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(url, tls.credentials(), options=_CHANNEL_OPTIONS)


def retry_pauses_s(num_retries: int) -> Iterator[float | None]:
    """For each attempt how long to wait before the next one; None after the last."""
    for index in range(num_retries):
        yield _FIRST_RETRY_PAUSE_S * 2**index * random.uniform(0.5, 1.5)
    yield None
