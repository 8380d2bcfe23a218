"""SIGTERM while speech is made: what runs comes to its end, what is new is refused, and the launcher leaves in time."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritone_client import ControlledVoice, Speech, Tritone, Unavailable

from demo.lines import DEMO_SENTENCES
from tests.live.launching import Launched, launched

TEXT = "\n".join(f"{sentence}." for sentence in DEMO_SENTENCES[:20])
VOICE = ControlledVoice("female", pitch="high")
NUM_STREAMS = 2
EXIT_TIMEOUT_S = 60
STOP_S = 20  # what the launcher may take after the last request


def test_running_requests_end_new_ones_are_refused_and_the_launcher_leaves(
    demo_repository: Path, tmp_path: Path
) -> None:
    with launched(demo_repository, tmp_path / "log", {"EXIT_TIMEOUT_S": str(EXIT_TIMEOUT_S)}) as server:
        with Tritone(server.grpc_url, timeout_s=120) as tritone, ThreadPoolExecutor() as pool:
            streams = [tritone.stream(TEXT, voice=VOICE, seed=seed) for seed in range(NUM_STREAMS)]
            first_pieces = [next(stream) for stream in streams]
            whole = pool.submit(tritone.synthesize, TEXT, voice=VOICE, seed=9)
            rests = [pool.submit(list, stream) for stream in streams]
            time.sleep(0.3)  # the whole one must have been taken, too
            server.terminate()
            _wait_until_not_ready(server)

            assert server.health("live") == 200
            for speak in (_speak, _stream):
                with pytest.raises(Unavailable, match="this server is stopping"):
                    speak(server)
            assert not any(rest.done() for rest in (*rests, whole)), "they ended too soon to show anything"

            for first, rest in zip(first_pieces, rests, strict=True):
                assert Speech.join([first, *rest.result()]).end_reason == "complete"
            assert whole.result().end_reason == "complete"
        assert server.process.wait(STOP_S) == 0


def _wait_until_not_ready(server: Launched) -> None:
    deadline = time.monotonic() + 10
    while server.health("ready") == 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert server.health("ready") == 400


def _speak(server: Launched) -> None:
    with Tritone(server.grpc_url, timeout_s=30) as tritone:
        tritone.synthesize("hello", voice=VOICE)


def _stream(server: Launched) -> None:
    with Tritone(server.grpc_url, timeout_s=30) as tritone:
        list(tritone.stream("hello", voice=VOICE))
