"""What a running server counts of its work, from its metrics endpoint."""

import time
import urllib.request
from typing import NamedTuple

from tritone.serve import TritonServer

POLL_S = 0.01


class Counters(NamedTuple):
    """The language model's and the vocoder's work."""

    num_running: float  # sequences in the language model
    lm_tokens: float
    vocoder_tokens: float


def counters(server: TritonServer) -> Counters:
    with urllib.request.urlopen(f"http://{server.host}:{server.metrics_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("tritone_lm_running", "tritone_lm_tokens_total", "tritone_vocoder_tokens_total")
    return Counters(*(float(values[name]) for name in names))


def wait_for_work(server: TritonServer) -> None:
    """Wait until the language model and the vocoder have both done something more.

    Raises:
        TimeoutError: they don't.
    """
    before = now = counters(server)
    deadline = time.monotonic() + 20
    while not (now.num_running and now.lm_tokens > before.lm_tokens and now.vocoder_tokens > before.vocoder_tokens):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server does nothing: {before}, {now}")
        time.sleep(POLL_S)
        now = counters(server)


def last_work_at(server: TritonServer, quiet_s: float) -> float:
    """When (by time.monotonic) the last sign of work was seen, once there was none for `quiet_s`.

    Raises:
        TimeoutError: the work goes on.
    """
    seen, seen_at = counters(server), time.monotonic()
    deadline = seen_at + 20
    while seen.num_running or time.monotonic() < seen_at + quiet_s:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server goes on: {seen}")
        time.sleep(POLL_S)
        now = counters(server)
        if now != seen:
            seen, seen_at = now, time.monotonic()
    return seen_at
