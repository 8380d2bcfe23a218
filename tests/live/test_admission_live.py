"""Places are bounded: who finds none is told so at once. Who is slow to read takes nothing from the others."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritone_client import AsyncTritone, ControlledVoice, Speech, Tritone, Unavailable
from tritone_client.messages import STREAM_MODEL, decode_stream_response, speech_request

from demo.lines import DEMO_SENTENCES
from tests.live.conftest import SMALL_SERVER_PLACES
from tritone.serve import TritonServer

TEXT = "\n".join(f"{sentence}." for sentence in DEMO_SENTENCES[:20])
VOICE = ControlledVoice("female", pitch="high")
NUM_SURPLUS = 4

Speak = Callable[[AsyncTritone, int], Coroutine[None, None, Speech]]


async def whole(tritone: AsyncTritone, seed: int) -> Speech:
    return await tritone.synthesize(TEXT, voice=VOICE, seed=seed)


async def streamed(tritone: AsyncTritone, seed: int) -> Speech:
    return Speech.join([piece async for piece in tritone.stream(TEXT, voice=VOICE, seed=seed)])


@pytest.mark.parametrize("speak", [whole, streamed])
def test_who_finds_no_place_is_told_at_once(small_server: TritonServer, speak: Speak) -> None:
    async def timed(tritone: AsyncTritone, seed: int) -> tuple[Speech | Unavailable, float]:
        try:
            return await speak(tritone, seed), time.monotonic()
        except Unavailable as error:
            return error, time.monotonic()

    async def all_at_once() -> list[tuple[Speech | Unavailable, float]]:
        async with AsyncTritone(small_server.grpc_url, timeout_s=60) as tritone:
            calls = (timed(tritone, seed) for seed in range(SMALL_SERVER_PLACES + NUM_SURPLUS))
            answers = await asyncio.gather(*calls)
            answers.append(await timed(tritone, 99))  # there are places again
            return answers

    answers = asyncio.run(all_at_once())
    speeches = [(answer, at) for answer, at in answers if isinstance(answer, Speech)]
    refusals = [(answer, at) for answer, at in answers if isinstance(answer, Unavailable)]
    assert (len(speeches), len(refusals)) == (SMALL_SERVER_PLACES + 1, NUM_SURPLUS)
    assert {speech.end_reason for speech, _ in speeches} == {"complete"}
    assert max(at for _, at in refusals) < min(at for _, at in speeches)
    for refusal, _ in refusals:
        assert f"{SMALL_SERVER_PLACES} requests are being served" in str(refusal)
        assert "try again in about" in str(refusal)


def test_who_leaves_gives_a_place_back(small_server: TritonServer) -> None:
    with Tritone(small_server.grpc_url, timeout_s=60) as tritone:
        streams = [tritone.stream(TEXT, voice=VOICE, seed=seed) for seed in range(SMALL_SERVER_PLACES)]
        for pieces in streams:
            next(pieces)
        with pytest.raises(Unavailable):
            next(tritone.stream(TEXT, voice=VOICE, seed=9))
        for pieces in streams:
            pieces.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert next(tritone.stream(TEXT, voice=VOICE, seed=9)).duration_s > 0
                return
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_who_is_slow_to_read_takes_nothing_from_the_others(server: TritonServer) -> None:
    options = {"keep_tokens": False, "normalize_text": False}
    request = speech_request(STREAM_MODEL, TEXT, VOICE, {"seed": 1}, **options)
    with grpc.insecure_channel(server.grpc_url) as channel, Tritone(server.grpc_url, timeout_s=60) as tritone:
        unread = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]), timeout=120)

        def speak(seed: int) -> Speech:
            return Speech.join(tritone.stream(TEXT, voice=VOICE, seed=seed))

        with ThreadPoolExecutor(4) as pool:
            assert {speech.end_reason for speech in pool.map(speak, range(4))} == {"complete"}
        read_late = Speech.join(decode_stream_response(response) for response in unread)
    assert read_late.end_reason == "complete"
    assert read_late.duration_s > 15
