"""What was found in reference audio, kept for the next request that brings the same audio."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from tritone.spark_tts.request import ReferenceVoice
from tritone.voices import TokenVoice


class ReferenceCache:
    """The tokens of the last `max_voices` voices, by content: one or two kilobytes each. For one event loop."""

    def __init__(self, tokenize: Callable[[ReferenceVoice], Coroutine[Any, Any, TokenVoice]], max_voices: int) -> None:
        """
        Args:
            tokenize: finds the tokens of a voice that is not in the cache.
        """
        self._tokenize = tokenize
        self._max_voices = max_voices
        self._tasks: OrderedDict[bytes, asyncio.Task[TokenVoice]] = OrderedDict()

    async def get(self, voice: ReferenceVoice) -> TokenVoice:
        """The tokens of `voice`; requests for it at the same time share the work.

        A caller who is cancelled leaves it to the others. A failure is not kept.
        """
        key = _content_hash(voice)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(self._tokenize(voice))
            if len(self._tasks) > self._max_voices:
                self._tasks.popitem(last=False)
        self._tasks.move_to_end(key)
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._tasks.get(key) is task:
                del self._tasks[key]
            raise


def _content_hash(voice: ReferenceVoice) -> bytes:
    digest = hashlib.blake2b(voice.waveform.tobytes(), digest_size=16)
    if voice.transcript is not None:
        digest.update(b"\0" + voice.transcript.encode())
    return digest.digest()
