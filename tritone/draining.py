"""How a server comes to its end: new requests are refused, running ones are waited for, and only then Triton stops.

Triton cannot do that by itself: on SIGTERM it closes its gRPC endpoint at once, and over that the models call each
other, so that every running request would break.

The launcher and the models meet in a folder. A model that has requests holds a shared lock there; the launcher leaves
a mark that no more are taken and tries to get the exclusive lock. A process that dies gives its lock up.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritone.errors import Unavailable

DRAINING_DIR_VARIABLE = "TRITONE_DRAINING_DIR"  # set by the launcher
POLL_INTERVAL_S = 0.05

_MARK = "draining"
_LOCK = "requests.lock"


class Entrance:
    """The way into one model for its requests; all on one thread."""

    def __init__(self, directory: Path) -> None:
        self._mark = directory / _MARK
        self._lock = _open_lock(directory)
        self._num_requests = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """A request's stay, which the launcher waits for the end of.

        Raises:
            Unavailable: the server takes no more requests, since it is about to stop.
        """
        if not self._num_requests:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:  # the launcher has found no request and stops Triton
                raise _stopping() from error
        self._num_requests += 1
        try:
            # After the lock: the launcher sees either that lock or not yet this request, which then sees the mark.
            if self._mark.exists():
                raise _stopping()
            yield
        finally:
            self._num_requests -= 1
            if not self._num_requests:
                fcntl.flock(self._lock, fcntl.LOCK_UN)


class OpenEntrance:
    """For a model whose server was not started by the launcher: nobody waits for its requests."""

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Let every request in."""
        yield


def entrance_of_server() -> Entrance | OpenEntrance:
    """The entrance to a model of the server that this process belongs to."""
    directory = os.environ.get(DRAINING_DIR_VARIABLE)
    return Entrance(Path(directory)) if directory else OpenEntrance()


@contextmanager
def drained(directory: Path, timeout_s: float) -> Iterator[bool]:
    """Let no new request into the models and wait until those within have ended; what follows has no requests.

    Gives whether they all did end, within `timeout_s` seconds.
    """
    (directory / _MARK).touch()
    lock = _open_lock(directory)
    try:
        yield _lock_within(lock, timeout_s)
    finally:
        os.close(lock)


def _lock_within(lock: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL_S)


def _open_lock(directory: Path) -> int:
    return os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def _stopping() -> Unavailable:
    return Unavailable("this server is stopping and takes no new requests: try another one, or again in a moment")
