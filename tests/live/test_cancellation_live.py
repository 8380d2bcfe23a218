"""A client that leaves stops its work, by the server's own counters; the others do not notice."""

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

import pytest
from tritone_client import AsyncTritone, ControlledVoice, Tritone

from demo.lines import DEMO_SENTENCES
from tritone.serve import TritonServer

# The aim is 0.2 s; a machine that does other things at the same time may take longer.
MAX_STOP_S = 0.5
POLL_S = 0.01
WATCH_S = 1.0  # so long nothing may happen after that
LONG_TEXT = "\n".join(f"{line}." for line in DEMO_SENTENCES)  # over a minute
VOICE = ControlledVoice("female", pitch="high")


class Counters(NamedTuple):
    """What the server says of its work."""

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
    """Wait until the language model and the vocoder have both begun with something new."""
    before = counters(server)
    deadline = time.monotonic() + 20
    while True:
        now = counters(server)
        if now.num_running and now.lm_tokens > before.lm_tokens and now.vocoder_tokens > before.vocoder_tokens:
            return
        assert time.monotonic() < deadline, "the server did not begin"
        time.sleep(POLL_S)


def close_stream(server: TritonServer) -> float:
    with Tritone(server.grpc_url) as tritone:
        pieces = tritone.stream(LONG_TEXT, voice=VOICE, seed=1)
        next(pieces)
        left_at = time.monotonic()
        pieces.close()
    return left_at


def close_channel(server: TritonServer) -> float:
    tritone = Tritone(server.grpc_url)
    pieces = tritone.stream(LONG_TEXT, voice=VOICE, seed=1)
    next(pieces)
    left_at = time.monotonic()
    tritone.close()
    pieces.close()
    return left_at


def cancel_task(server: TritonServer) -> float:
    """A call for the whole speech, of which nothing has come yet."""

    async def call_and_cancel() -> float:
        async with AsyncTritone(server.grpc_url) as tritone:
            call = asyncio.create_task(tritone.synthesize(LONG_TEXT, voice=VOICE, seed=1))
            await asyncio.to_thread(wait_for_work, server)
            left_at = time.monotonic()
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
            return left_at

    return asyncio.run(call_and_cancel())


def kill_process(server: TritonServer) -> float:
    program = """
import sys
from tritone_client import ControlledVoice, Tritone
for piece in Tritone(sys.argv[1]).stream(sys.argv[2], voice=ControlledVoice("female", pitch="high"), seed=1):
    print(len(piece.waveform), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, server.grpc_url, LONG_TEXT], stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None and int(client.stdout.readline()) > 0
        left_at = time.monotonic()
        client.kill()
    return left_at


def time_to_stop_s(server: TritonServer, left_at: float) -> float:
    """From then to the last sign of work, seen by somebody who looks until there was none for WATCH_S."""
    seen = counters(server)
    last_change_at = time.monotonic()
    while seen.num_running or time.monotonic() < last_change_at + WATCH_S:
        assert time.monotonic() < left_at + 20, f"the server goes on: {seen}"
        time.sleep(POLL_S)
        now = counters(server)
        if now != seen:
            seen, last_change_at = now, time.monotonic()
    return last_change_at - left_at


@pytest.mark.parametrize("leave", [close_stream, close_channel, cancel_task, kill_process])
def test_a_client_that_leaves_stops_its_work(
    server: TritonServer, leave: Callable[[TritonServer], float], record_property: Callable[[str, object], None]
) -> None:
    before = counters(server)
    stop_s = time_to_stop_s(server, leave(server))
    record_property("stop_s", stop_s)
    print(f"{leave.__name__}: the server stopped after {stop_s:.3f} s")
    done = counters(server)
    assert done.lm_tokens > before.lm_tokens and done.vocoder_tokens > before.vocoder_tokens
    assert stop_s < MAX_STOP_S
