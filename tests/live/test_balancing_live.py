"""Two servers behind one list of addresses: requests go to both, and when one is killed to the other."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tritone_client import ControlledVoice, Speech, Tritone, Unavailable

from demo.lines import DEMO_SENTENCES
from tests.live.counters import counters
from tests.live.launching import Launched, launched
from tritone.serve import TritonServer

LINE = "the weather is nice"
TEXT = "\n".join(f"{sentence}." for sentence in DEMO_SENTENCES[:30])
VOICE = ControlledVoice("female", pitch="high")
NUM_LINES = 4  # for each client


def test_load_spreads_and_moves_on_when_a_server_is_killed(
    server: TritonServer, demo_repository: Path, tmp_path: Path
) -> None:
    with launched(demo_repository, tmp_path / "log") as second, ThreadPoolExecutor() as pool:
        both = f"ipv4:{server.grpc_url},{second.grpc_url}"
        with Tritone(both, timeout_s=120) as one, Tritone(both, timeout_s=120) as other:
            for tritone in (one, other):
                _speak_until_both_are_used(tritone, server, second)
            before = _lm_tokens(server, second)
            for _ in range(NUM_LINES):
                for tritone in (one, other):
                    tritone.synthesize(LINE, voice=VOICE, seed=1)
            made = [after - tokens for after, tokens in zip(_lm_tokens(server, second), before, strict=True)]
            assert min(made) > 0.4 * sum(made) / 2

            streams = [one.stream(TEXT, voice=VOICE, seed=seed) for seed in range(2)]
            for stream in streams:
                next(stream)
            unheard = [pool.submit(other.synthesize, TEXT, voice=VOICE, seed=seed) for seed in range(2)]
            time.sleep(0.3)
            second.tritonserver().kill()

            assert sorted(pool.map(_end, streams)) == ["complete", "unavailable"]  # what was heard is not begun again
            assert {speech.result().end_reason for speech in unheard} == {"complete"}
            for tritone in (one, other):
                for seed in range(3):
                    assert Speech.join(tritone.stream(LINE, voice=VOICE, seed=seed)).end_reason == "complete"


def _lm_tokens(*servers: TritonServer | Launched) -> list[float]:
    return [counters(server).lm_tokens for server in servers]


def _speak_until_both_are_used(tritone: Tritone, *servers: TritonServer | Launched) -> None:
    before, deadline = _lm_tokens(*servers), time.monotonic() + 30
    while not all(now > tokens for now, tokens in zip(_lm_tokens(*servers), before, strict=True)):
        assert time.monotonic() < deadline
        tritone.synthesize(LINE, voice=VOICE, seed=1)


def _end(stream: Iterator[Speech]) -> str | None:
    try:
        return list(stream)[-1].end_reason
    except Unavailable:
        return "unavailable"
