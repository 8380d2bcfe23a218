"""Processes that each use all cores take turns with them.

Two engines at once on the same cores wait for each other's threads thousands of times a second: a language model beside
a busy vocoder ran at a third of its speed on two cores, and the vocoder slower than alone. In turns both run at full
speed, and the longest wait is one window of the vocoder or one step of the language model.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

TURNS_DIR_VARIABLE = "TRITONE_TURNS_DIR"  # set by the launcher


class Turns(Protocol):
    """Something to wait for before all cores are used."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait for the turn, and end it."""


class NoTurns:
    """For a process that has its cores for itself."""

    def turn(self) -> AbstractContextManager[None]:
        """Begin at once."""
        return nullcontext()


class SharedTurns:
    """Turns of all processes that name the same folder; a process that dies gives its turn up. For one thread each.

    Who waits gets the next turn even if the other would like to go on at once: the queue is a lock of its own, held
    by the one who waits, and everybody must pass it.
    """

    def __init__(self, directory: Path) -> None:
        self._queue = os.open(directory / "queue.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self._cores = os.open(directory / "cores.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and end it; other threads of the process run meanwhile."""
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._cores, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._cores, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the files back."""
        os.close(self._queue)
        os.close(self._cores)


def turns_of_server() -> Turns:
    """Turns among the models of the server that this process belongs to; none where the launcher set no folder."""
    directory = os.environ.get(TURNS_DIR_VARIABLE)
    return SharedTurns(Path(directory)) if directory else NoTurns()
