"""Waiting for what another process does."""

import time
from collections.abc import Callable

_TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Raises AssertionError where the condition does not hold within a minute."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
