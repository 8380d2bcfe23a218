"""Waiting for what another process does."""

import time
from collections.abc import Callable

TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Raises AssertionError where the condition does not hold in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
