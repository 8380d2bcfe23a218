"""A client that leaves stops its work, by the server's own counters; the others do not notice."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tritone_client import AsyncTritone, ControlledVoice, Tritone

from demo.lines import DEMO_SENTENCES
from tests.live.counters import counters, last_work_at, wait_for_work
from tritone.serve import TritonServer

# The aim is 0.2 s, and 0.03 s is usual; a machine that does other things at the same time may take longer.
MAX_STOP_S = 0.5
QUIET_S = 1.0  # so long nothing may happen after that
LONG_TEXT = "\n".join(f"{sentence}." for sentence in DEMO_SENTENCES)  # over a minute
VOICE = ControlledVoice("female", pitch="high")
STREAMING_CLIENT = """
import sys
from tritone_client import ControlledVoice, Tritone
for piece in Tritone(sys.argv[1]).stream(sys.argv[2], voice=ControlledVoice("female"), seed=1):
    print(len(piece.waveform), flush=True)
"""


def close_stream(server: TritonServer) -> float:
    """Leave after the first piece; all of these return when that was."""
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
    """Of a call for the whole speech, of which nothing has come yet."""

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
    command = [sys.executable, "-c", STREAMING_CLIENT, server.grpc_url, LONG_TEXT]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline()
        left_at = time.monotonic()
        client.kill()
    return left_at


@pytest.mark.parametrize("leave", [close_stream, close_channel, cancel_task, kill_process])
def test_a_client_that_leaves_stops_its_work(server: TritonServer, leave: Callable[[TritonServer], float]) -> None:
    before = counters(server)
    left_at = leave(server)
    stop_s = last_work_at(server, QUIET_S) - left_at
    print(f"the server stopped within {stop_s:.3f} s")
    done = counters(server)
    assert done.lm_tokens > before.lm_tokens
    assert done.vocoder_tokens > before.vocoder_tokens
    assert stop_s < MAX_STOP_S


def test_others_do_not_notice_who_leaves(small_server: TritonServer) -> None:
    with Tritone(small_server.grpc_url, timeout_s=60) as tritone:

        def speak() -> list[int]:
            speech = tritone.synthesize(LONG_TEXT[:500], voice=VOICE, seed=2, keep_tokens=True)
            assert speech.end_reason == "complete"
            assert speech.semantic_tokens is not None
            return speech.semantic_tokens.tolist()

        alone = speak()
        num_left = 0
        with ThreadPoolExecutor(1) as pool:
            beside_others = pool.submit(speak)
            while not beside_others.done():
                close_stream(small_server)
                num_left += 1
        assert num_left > 2
        assert beside_others.result() == alone
