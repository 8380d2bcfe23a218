"""From a request to speech: voice tokens, language model, vocoder."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.models import Phase, SparkTtsModels
from tritone.spark_tts.prompts import Prompts, token_values
from tritone.spark_tts.request import ControlledVoice, ReferenceVoice, SynthesisRequest
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS
from tritone.voices import TokenVoice
from tritone.windows import CrossFade, StreamSettings, StreamWindows, whole_windows

WHOLE_WINDOW_TOKENS = 640  # 12.8 s: longer speech is decoded in windows, so that memory stays bounded


@dataclass(frozen=True)
class Speech:
    """A piece of speech.

    Attributes:
        waveform: FP32 [samples].
        global_tokens, semantic_tokens: INT32 [32] and INT32 [m] of the whole speech, with its last piece only.
    """

    waveform: np.ndarray
    global_tokens: np.ndarray | None = None
    semantic_tokens: np.ndarray | None = None


@dataclass(frozen=True)
class _Voiced:
    """A request whose voice is settled: what remains is to generate semantic tokens after `prompt`."""

    prompt: list[int]
    global_tokens: np.ndarray


class Pipeline:
    """Serves any number of requests at once: each is a coroutine that awaits its models."""

    def __init__(
        self, models: SparkTtsModels, prompts: Prompts, facts: ModelFacts, stream_settings: StreamSettings
    ) -> None:
        self._models = models
        self._prompts = prompts
        self._facts = facts
        self._stream_settings = stream_settings

    async def whole(self, request: SynthesisRequest) -> Speech:
        """All of the speech at once, decoded exactly."""
        voiced = await self._settle_voice(request)
        ids = await _all_ids(self._semantic_ids(voiced, request))
        semantic = token_values(ids, self._prompts.tokens.semantic_tokens)
        pieces = []
        for window in whole_windows(len(semantic), self._facts.receptive_field_tokens, WHOLE_WINDOW_TOKENS):
            waveform = await self._models.decode(voiced.global_tokens, semantic[window.begin : window.end])
            pieces.append(window.kept(waveform, self._facts.samples_per_token))
        return Speech(np.concatenate(pieces), voiced.global_tokens, semantic)

    async def stream(self, request: SynthesisRequest) -> AsyncGenerator[Speech, None]:
        """The speech in pieces that a client only concatenates; the language model goes on while pieces are decoded."""
        voiced = await self._settle_voice(request)
        windows = StreamWindows(self._stream_settings, self._facts.receptive_field_tokens)
        cross_fade = CrossFade()
        ids: list[int] = []

        async def decode_ready(finished: bool) -> AsyncGenerator[Speech, None]:
            while (window := windows.next(len(ids), finished)) is not None:
                semantic = token_values(ids, self._prompts.tokens.semantic_tokens)
                waveform = await self._models.decode(voiced.global_tokens, semantic[window.begin : window.end])
                is_last = finished and window.keep_end == len(ids)
                num_fade = 0 if is_last else self._stream_settings.fade
                samples = window.kept(waveform, self._facts.samples_per_token, num_fade)
                samples = cross_fade.join(samples, num_fade * self._facts.samples_per_token)
                yield Speech(samples, voiced.global_tokens, semantic) if is_last else Speech(samples)

        async with aclosing(self._semantic_ids(voiced, request)) as groups:
            async for group in groups:
                ids += group
                async for speech in decode_ready(finished=False):
                    yield speech
        async for speech in decode_ready(finished=True):
            yield speech

    def _semantic_ids(self, voiced: _Voiced, request: SynthesisRequest) -> AsyncGenerator[list[int], None]:
        tokens = self._prompts.tokens
        max_tokens = max(1, int(request.max_audio_s * self._facts.tokens_per_s))
        phase = Phase(tokens.semantic_tokens, max_tokens, end_id=tokens.im_end)
        return self._models.generate(voiced.prompt, phase, request.sampling)

    async def _settle_voice(self, request: SynthesisRequest) -> _Voiced:
        voice = request.voice
        if isinstance(voice, ControlledVoice):
            return await self._invent_voice(request, voice)
        if isinstance(voice, ReferenceVoice):
            voice = await self._tokenize(voice)
        return _Voiced(self._prompts.clone(request.text, voice), voice.global_tokens)

    async def _tokenize(self, voice: ReferenceVoice) -> TokenVoice:
        if voice.transcript is None:
            return TokenVoice(await self._models.speaker_tokens(voice.waveform))
        return TokenVoice(*await self._models.reference_tokens(voice.waveform), voice.transcript)

    async def _invent_voice(self, request: SynthesisRequest, voice: ControlledVoice) -> _Voiced:
        """Have the model choose what the caller left open: pitch, speed, then the 32 tokens of the voice."""
        t = self._prompts.tokens
        prompt = self._prompts.controlled(request.text, voice.style)

        async def extend(kind: range, num_tokens: int) -> list[int]:
            return await _all_ids(self._models.generate(prompt, Phase(kind, num_tokens), request.sampling))

        for kind, value in ((t.pitch_values, voice.pitch_value), (t.speed_values, voice.speed_value)):
            prompt += await extend(kind, 1) if value is None else [kind[value]]
        prompt += [t.end_acoustic, t.start_global]
        speaker = await extend(t.global_tokens, NUM_GLOBAL_TOKENS)
        return _Voiced([*prompt, *speaker, t.end_global, t.start_semantic], token_values(speaker, t.global_tokens))


async def _all_ids(generation: AsyncGenerator[list[int], None]) -> list[int]:
    """The ids of a whole phase; being cancelled stops the language model."""
    async with aclosing(generation) as groups:
        return [token_id async for group in groups for token_id in group]
