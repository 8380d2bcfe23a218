"""What was found in reference audio, kept for the next request that brings the same audio."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from tritone.observations import UNOBSERVED, Observation
from tritone.spark_tts.request import ReferenceVoice
from tritone.voices import TokenVoice


class ReferenceCache:
    """The tokens of the last `max_voices` voices, by content: up to 6 KB each (30 s). For one event loop."""

    def __init__(self, tokenize: Callable[[ReferenceVoice], Coroutine[Any, Any, TokenVoice]], max_voices: int) -> None:
        """
        Args:
            tokenize: finds the tokens of a voice that is not in the cache.
        """
        self._tokenize = tokenize
        self._max_voices = max_voices
        self._tasks: OrderedDict[bytes, asyncio.Task[TokenVoice]] = OrderedDict()

    async def get(self, voice: ReferenceVoice, observation: Observation = UNOBSERVED) -> TokenVoice:
        """The tokens of `voice`; requests for it at the same time share the work.

        A caller who is cancelled leaves it to the others. A failure is not kept.
        """
        key = _content_hash(voice)
        task = self._tasks.get(key)
        observation.looked_up_voice(task is not None)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(self._tokenize(voice))
            task.add_done_callback(lambda done: self._drop_failed(key, done))
            if len(self._tasks) > self._max_voices:
                self._tasks.popitem(last=False)
        else:
            self._tasks.move_to_end(key)
        return await asyncio.shield(task)

    def _drop_failed(self, key: bytes, task: asyncio.Task[TokenVoice]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._tasks.get(key) is task:
            del self._tasks[key]


def _content_hash(voice: ReferenceVoice) -> bytes:
    parts = [voice.waveform.tobytes()]
    if voice.transcript is not None:
        parts.append(voice.transcript.encode())
    return b"".join(hashlib.blake2b(part, digest_size=16).digest() for part in parts)
