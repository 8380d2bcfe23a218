"""Reference audio is tokenized once, for all who bring it."""

import asyncio

import numpy as np
import pytest

from tritone.spark_tts.references import ReferenceCache
from tritone.spark_tts.request import ReferenceVoice
from tritone.voices import TokenVoice


class Tokenizer:
    """Answers when it is told to, each time with other tokens."""

    def __init__(self, waits: bool = False) -> None:
        self.voices: list[ReferenceVoice] = []  # in the order in which they were asked for
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        if not waits:
            self.go_on.set()

    async def __call__(self, voice: ReferenceVoice) -> TokenVoice:
        self.voices.append(voice)
        number = len(self.voices)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return TokenVoice(np.full(32, number, np.int32))


async def settle() -> None:
    """Let everything run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def voice(seed: int, transcript: str | None = None) -> ReferenceVoice:
    """Audio of its own for each seed; equal seeds give equal content in arrays of their own."""
    return ReferenceVoice(np.random.default_rng(seed).standard_normal(1000).astype(np.float32), transcript)


def test_the_same_audio_is_tokenized_once() -> None:
    async def run() -> None:
        tokenizer = Tokenizer()
        cache = ReferenceCache(tokenizer, max_voices=4)
        found = [await cache.get(voice(1)) for _ in range(3)]
        assert len(tokenizer.voices) == 1
        assert found[0] is found[1] is found[2]

    asyncio.run(run())


def test_different_content_is_never_mixed_up() -> None:
    audio = voice(1).waveform
    changed = audio.copy()
    changed[500] += 1e-6
    voices = [
        *(ReferenceVoice(audio, transcript) for transcript in (None, "", "Hello.", "Hello", "hello.", "你好。")),
        ReferenceVoice(changed, None),
        ReferenceVoice(changed, "Hello."),
        ReferenceVoice(audio[:-1], None),
        ReferenceVoice(np.concatenate([audio, np.frombuffer(b"\0you", np.float32)]), None),
        ReferenceVoice(audio, "you"),
        ReferenceVoice(audio[:-1], "Hello."),
    ]

    async def run() -> None:
        tokenizer = Tokenizer()
        cache = ReferenceCache(tokenizer, max_voices=len(voices))
        first = [await cache.get(each) for each in voices]
        assert tokenizer.voices == voices
        assert [await cache.get(each) for each in voices] == first
        assert len(tokenizer.voices) == len(voices)

    asyncio.run(run())


def test_a_part_of_an_array_counts_by_its_content() -> None:
    async def run() -> None:
        tokenizer = Tokenizer()
        cache = ReferenceCache(tokenizer, max_voices=4)
        audio = voice(1).waveform
        stereo = np.stack([audio, -audio], axis=1)
        await cache.get(ReferenceVoice(stereo[:, 0], None))
        await cache.get(ReferenceVoice(audio, None))
        assert len(tokenizer.voices) == 1

    asyncio.run(run())


def test_requests_at_the_same_time_share_the_work() -> None:
    async def run() -> None:
        tokenizer = Tokenizer(waits=True)
        cache = ReferenceCache(tokenizer, max_voices=4)
        requests = [asyncio.create_task(cache.get(voice(1))) for _ in range(5)]
        await settle()
        tokenizer.go_on.set()
        found = await asyncio.gather(*requests)
        assert len(tokenizer.voices) == 1
        assert all(each is found[0] for each in found)

    asyncio.run(run())


def test_the_voice_that_was_not_used_for_longest_makes_room() -> None:
    async def run() -> None:
        tokenizer = Tokenizer()
        cache = ReferenceCache(tokenizer, max_voices=2)
        one, two, three = voice(1), voice(2), voice(3)
        for each in (one, two, one, three):  # two makes room for three
            await cache.get(each)
        assert tokenizer.voices == [one, two, three]
        for each in (one, three):
            await cache.get(each)
        assert len(tokenizer.voices) == 3
        await cache.get(two)
        assert len(tokenizer.voices) == 4

    asyncio.run(run())


def test_who_waits_is_answered_though_the_voice_had_to_make_room() -> None:
    async def run() -> None:
        tokenizer = Tokenizer(waits=True)
        cache = ReferenceCache(tokenizer, max_voices=1)
        requests = [asyncio.create_task(cache.get(voice(seed))) for seed in (1, 2, 3)]
        await settle()
        tokenizer.go_on.set()
        found = await asyncio.gather(*requests)
        assert [each.global_tokens[0] for each in found] == [1, 2, 3]

    asyncio.run(run())


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    async def run() -> None:
        tokenizer = Tokenizer(waits=True)
        tokenizer.error = RuntimeError("no encoder")
        cache = ReferenceCache(tokenizer, max_voices=4)
        requests = [asyncio.create_task(cache.get(voice(1))) for _ in range(3)]
        await settle()
        tokenizer.go_on.set()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert [str(result) for result in results] == ["no encoder"] * 3
        assert len(tokenizer.voices) == 1
        tokenizer.error = None
        assert (await cache.get(voice(1))).global_tokens[0] == 2

    asyncio.run(run())


def test_a_failure_that_nobody_waited_for_is_not_kept() -> None:
    async def run() -> None:
        tokenizer = Tokenizer(waits=True)
        tokenizer.error = RuntimeError("no encoder")
        cache = ReferenceCache(tokenizer, max_voices=4)
        request = asyncio.create_task(cache.get(voice(1)))
        await settle()
        request.cancel()
        await settle()
        tokenizer.go_on.set()
        await settle()
        tokenizer.error = None
        assert (await cache.get(voice(1))).global_tokens[0] == 2

    asyncio.run(run())


def test_a_cache_may_keep_nothing() -> None:
    async def run() -> None:
        cache = ReferenceCache(Tokenizer(), max_voices=0)
        assert [(await cache.get(voice(1))).global_tokens[0] for _ in range(2)] == [1, 2]

    asyncio.run(run())


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_cancelled_caller_leaves_the_work_to_the_others(cancelled: int) -> None:
    async def run() -> None:
        tokenizer = Tokenizer(waits=True)
        cache = ReferenceCache(tokenizer, max_voices=4)
        requests = [asyncio.create_task(cache.get(voice(1))) for _ in range(2)]
        await settle()
        requests[cancelled].cancel()
        await settle()
        assert requests[cancelled].cancelled()
        tokenizer.go_on.set()
        assert (await requests[1 - cancelled]).global_tokens[0] == 1
        assert len(tokenizer.voices) == 1

    asyncio.run(run())


def test_work_whose_only_caller_was_cancelled_serves_the_next() -> None:
    async def run() -> None:
        tokenizer = Tokenizer(waits=True)
        cache = ReferenceCache(tokenizer, max_voices=4)
        request = asyncio.create_task(cache.get(voice(1)))
        await settle()
        request.cancel()
        await settle()
        tokenizer.go_on.set()
        assert (await cache.get(voice(1))).global_tokens[0] == 1
        assert len(tokenizer.voices) == 1

    asyncio.run(run())
