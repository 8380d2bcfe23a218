"""Closed-loop load: so many listeners at once, each of whom asks for the next utterance when the last one has ended."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from itertools import chain

from tqdm import tqdm

from benchmark.metrics import Level, Piece, StreamedRequest

# One utterance of every benchmark. Weights of no meaning speak until the limit.
TEXT = "The quick brown fox jumps over the lazy dog near the river bank, and nobody in the village sees it go."
AUDIO_S = 6.0

# Speaks one utterance with the seed given and yields each piece's seconds of audio as it comes.
Speak = Callable[[int], AsyncGenerator[float, None]]


async def measure_level(
    systems: Sequence[Speak], num_streams: int, requests_per_stream: int, num_repetitions: int, progress: tqdm
) -> list[Level]:
    """Measure each of `systems` at one number of concurrent streams.

    They take turns, so that a machine whose speed drifts is the same to all of them. `progress` counts requests.
    """
    loads: list[list[tuple[StreamedRequest, ...]]] = [[] for _ in systems]
    for _ in range(num_repetitions):
        for repetitions, speak in zip(loads, systems, strict=True):
            repetitions.append(await closed_loop(speak, num_streams, requests_per_stream, progress))
    return [Level(num_streams, tuple(repetitions)) for repetitions in loads]


async def closed_loop(
    speak: Speak, num_streams: int, requests_per_stream: int, progress: tqdm
) -> tuple[StreamedRequest, ...]:
    """`num_streams` at once, each with so many requests one after another, every request with a seed of its own."""

    async def requests_of(stream: int) -> list[StreamedRequest]:
        seeds = range(stream * requests_per_stream, (stream + 1) * requests_per_stream)
        return [await _request(speak(seed), progress) for seed in seeds]

    streams = await asyncio.gather(*(requests_of(stream) for stream in range(num_streams)))
    return tuple(chain.from_iterable(streams))


async def _request(speech: AsyncGenerator[float, None], progress: tqdm) -> StreamedRequest:
    sent_at_s = time.perf_counter()
    async with aclosing(speech) as pieces:
        arrived = tuple([Piece(time.perf_counter(), audio_s) async for audio_s in pieces])
    progress.update()
    return StreamedRequest(sent_at_s, arrived, ended_at_s=time.perf_counter())
