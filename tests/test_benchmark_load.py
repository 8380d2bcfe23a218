"""Closed and open loops, over stand-ins for a server."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator

import pytest
from tqdm import tqdm
from tritone_client import AsyncTritone, ControlledVoice, TritoneError

from benchmark.load import Job, closed_loop, measure_level, open_loop
from benchmark.metrics import Request
from tests.scheduled_triton import ScheduledTriton, schedule


class FakeSystem:
    """Speaks two pieces; notes the seeds, and how many requests run at a time."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.num_running = 0
        self.most_running = 0

    async def speak(self, seed: int) -> AsyncGenerator[float, None]:
        self.seeds.append(seed)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        for audio_s in (0.25, 0.5):
            await asyncio.sleep(0)
            yield audio_s
        self.num_running -= 1


def test_every_stream_has_one_request_at_a_time() -> None:
    one, other = FakeSystem(), FakeSystem()
    with tqdm(disable=True) as progress:
        levels = asyncio.run(measure_level([one.speak, other.speak], 3, 4, 2, progress))
    for system, level in zip((one, other), levels, strict=True):
        assert system.most_running == 3
        assert sorted(system.seeds) == sorted([*range(12), *range(12)])  # each repetition is the same work
        assert [len(load) for load in level.repetitions] == [12, 12]
        assert level.mean_audio_s == 0.75
        for load in level.repetitions:
            for request in load:
                first, last = (piece.arrived_at_s for piece in request.pieces)
                assert request.sent_at_s <= first <= last <= request.ended_at_s


async def speak_once() -> AsyncGenerator[float, None]:
    yield 1.0


def test_a_failure_ends_a_measurement_that_allows_none() -> None:
    async def fail(seed: int) -> AsyncGenerator[float, None]:
        raise TritoneError("INTERNAL", "broken")
        yield 0.0

    with tqdm(disable=True) as progress, pytest.raises(RuntimeError, match="1 of 1 requests failed: INTERNAL"):
        asyncio.run(measure_level([fail], 1, 1, 1, progress))


def test_one_process_holds_256_streams() -> None:
    server, load = ScheduledTriton(), list[Request]()
    text = schedule(meet=256, pieces=[(0.0, 0.1), (0.1, 0.1)])

    async def speak(client: AsyncTritone) -> AsyncGenerator[float, None]:
        async for piece in client.stream(text, voice=ControlledVoice("male")):
            yield piece.duration_s

    async def load_it() -> None:
        async with AsyncTritone(server.url, timeout_s=60) as client:
            await closed_loop((Job("all", lambda: speak(client)) for _ in range(512)), 256, load.append)

    try:
        asyncio.run(load_it())
    finally:
        server.stop()
    assert server.most_running == 256
    assert len(load) == 512 and {(request.error, len(request.pieces)) for request in load} == {(None, 2)}


def test_arrivals_do_not_wait_for_a_load_generator_that_is_held_up() -> None:
    """Coordinated omission: what blocks the first request must not move the schedule of the others."""

    async def hold_up() -> AsyncGenerator[float, None]:
        time.sleep(0.5)
        yield 1.0

    def offered(first: Job) -> list[Request]:
        load: list[Request] = []
        jobs = [first, *(Job("quick", speak_once) for _ in range(9))]
        asyncio.run(open_loop(jobs, 50.0, 7, load.append))
        return sorted(load, key=lambda request: request.scheduled_at_s)

    schedules = []
    for first in (Job("quick", speak_once), Job("blocks", hold_up)):
        load = offered(first)
        schedules.append([request.scheduled_at_s - load[0].scheduled_at_s for request in load])
        assert all(request.scheduled_at_s <= request.sent_at_s for request in load)
    assert schedules[1] == pytest.approx(schedules[0], abs=1e-6)
    assert load[1].first_audio_s > 0.5 - schedules[1][1] - 1e-3  # it waited, though it was sent only afterwards
    assert load[1].pieces[0].arrived_at_s - load[1].sent_at_s < 0.4


def test_arrivals_come_at_the_rate_asked_for() -> None:
    load: list[Request] = []
    jobs = (Job("quick", speak_once) for _ in itertools.count())
    asyncio.run(open_loop(jobs, 400.0, 0, load.append, duration_s=1.0))
    assert 340 < len(load) < 460  # 400 and three standard deviations
    assert max(request.scheduled_at_s for request in load) - min(request.scheduled_at_s for request in load) <= 1.0


def test_cancelling_records_what_was_running() -> None:
    load: list[Request] = []

    async def hang() -> AsyncGenerator[float, None]:
        yield 0.25
        await asyncio.sleep(60)

    async def cancel(loop_of_load: str) -> None:
        jobs = (Job(loop_of_load, hang) for _ in range(3))
        run = closed_loop(jobs, 3, load.append) if loop_of_load == "closed" else open_loop(jobs, 1e6, 0, load.append)
        task = asyncio.ensure_future(run)
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for loop_of_load in ("closed", "open"):
        asyncio.run(cancel(loop_of_load))
    assert [(request.utterance, request.error, request.audio_s) for request in load] == [
        *[("closed", "CANCELLED", 0.25)] * 3,
        *[("open", "CANCELLED", 0.25)] * 3,
    ]
