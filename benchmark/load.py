"""Load on a server: listeners who come back when they have heard the last utterance, or who come when they like."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm
from tritone_client import TritoneError

from benchmark.metrics import Level, Piece, Request

# One utterance of every benchmark. Weights of no meaning speak until the limit.
TEXT = "The quick brown fox jumps over the lazy dog near the river bank, and nobody in the village sees it go."
AUDIO_S = 6.0

NO_AUDIO = "NO_AUDIO"  # the server ended a stream as if all was well, but nothing came
CANCELLED = "CANCELLED"
PAUSE_AFTER_ERROR_S = 0.1  # who was refused does not come back at once

# Speaks one utterance with the seed given and yields each piece's seconds of audio as it comes.
Speak = Callable[[int], AsyncGenerator[float, None]]


@dataclass(frozen=True)
class Job:
    """A request to make: the utterance's id, and what sends it and yields each piece's seconds of audio."""

    utterance: str
    speak: Callable[[], AsyncGenerator[float, None]]


Record = Callable[[Request], None]  # is told of every request when it has ended


async def closed_loop(jobs: Iterable[Job], num_streams: int, record: Record, duration_s: float = math.inf) -> None:
    """`num_streams` listeners at once, each of whom takes the next job when the last one has ended.

    After `duration_s` nobody begins anew; what runs then comes to its end. When this is cancelled, the requests that
    run are recorded as CANCELLED.
    """
    remaining, end_s = iter(jobs), time.perf_counter() + duration_s

    async def listener() -> None:
        for job in remaining:
            request = await _request(job, time.perf_counter(), record)
            if request.error is not None:
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)
            if time.perf_counter() >= end_s:
                return

    await asyncio.gather(*(listener() for _ in range(num_streams)))


async def open_loop(
    jobs: Iterable[Job], rate_per_s: float, seed: int, record: Record, duration_s: float = math.inf
) -> None:
    """Listeners who come at random (Poisson), `rate_per_s` of them, and do not care how many are there already.

    Ends as `closed_loop` does.

    Args:
        seed: of the arrivals, which are the same for the same seed and rate.
    """
    begin_s = time.perf_counter()
    async with asyncio.TaskGroup() as running:
        for job, arrival_s in zip(jobs, _poisson_arrivals_s(rate_per_s, seed), strict=False):
            if arrival_s > duration_s:
                return
            # `sleep` ends late when the loop is busy: what a user waits for counts from the schedule all the same
            await asyncio.sleep(max(0.0, begin_s + arrival_s - time.perf_counter()))
            running.create_task(_request(job, begin_s + arrival_s, record))


async def _request(job: Job, scheduled_at_s: float, record: Record) -> Request:
    sent_at_s, pieces = time.perf_counter(), list[Piece]()
    error: str | None = None
    message: str | None = None
    try:
        async with aclosing(job.speak()) as arriving:
            async for audio_s in arriving:
                pieces.append(Piece(time.perf_counter(), audio_s))
        error = None if pieces else NO_AUDIO
    except TritoneError as failure:
        error, message = failure.status, str(failure)
    except asyncio.CancelledError:
        error = CANCELLED
        raise
    finally:
        ended_at_s = time.perf_counter()
        request = Request(job.utterance, scheduled_at_s, sent_at_s, tuple(pieces), ended_at_s, error, message)
        record(request)
    return request


def _poisson_arrivals_s(rate_per_s: float, seed: int) -> Iterator[float]:
    """Times of arrival, endlessly, from 0 on."""
    generator, now_s = np.random.default_rng(seed), 0.0
    while True:
        now_s += generator.exponential(1 / rate_per_s)
        yield now_s


async def measure_level(
    systems: Sequence[Speak], num_streams: int, requests_per_stream: int, num_repetitions: int, progress: tqdm
) -> list[Level]:
    """Measure each of `systems` at one number of concurrent streams; any failure is raised.

    They take turns, so that a machine whose speed drifts is the same to all of them. `progress` counts requests.
    """
    loads: list[list[tuple[Request, ...]]] = [[] for _ in systems]
    for _ in range(num_repetitions):
        for repetitions, speak in zip(loads, systems, strict=True):
            repetitions.append(await speak_all(speak, num_streams, num_streams * requests_per_stream, progress))
    return [Level(num_streams, tuple(repetitions)) for repetitions in loads]


async def speak_all(speak: Speak, num_streams: int, num_requests: int, progress: tqdm) -> tuple[Request, ...]:
    """A closed loop of the same utterance, every request with a seed of its own.

    Raises:
        RuntimeError: a request failed.
    """
    load: list[Request] = []

    def record(request: Request) -> None:
        load.append(request)
        progress.update()

    jobs = [Job(TEXT, lambda seed=seed: speak(seed)) for seed in range(num_requests)]  # type: ignore[misc]
    await closed_loop(jobs, num_streams, record)
    if errors := [request.error for request in load if request.error is not None]:
        raise RuntimeError(f"{len(errors)} of {num_requests} requests failed: {', '.join(sorted(set(errors)))}")
    return tuple(load)
