"""The closed loop over a stand-in for a server."""

import asyncio
from collections.abc import AsyncGenerator

from tqdm import tqdm

from benchmark.load import measure_level


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
