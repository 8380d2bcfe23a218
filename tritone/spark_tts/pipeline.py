"""From a request to speech: voice tokens, language model, vocoder."""

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from tritone.observations import UNOBSERVED, Observation, Stage
from tritone.run_on import SilenceDetector, token_budget
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.generation import EndReason, SegmentGeneration, SegmentPlan
from tritone.spark_tts.joining import SegmentJoiner
from tritone.spark_tts.models import Phase, SparkTtsModels
from tritone.spark_tts.prompts import Prompts, token_values
from tritone.spark_tts.references import ReferenceCache
from tritone.spark_tts.request import ControlledVoice, ReferenceVoice, SynthesisRequest
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS
from tritone.spark_tts.vocoder import full_stretches
from tritone.text import MIN_SEGMENT_LIMIT_S, Segment, normalize_text, split_text
from tritone.voices import TokenVoice
from tritone.windows import CrossFade, Playback, StreamSettings, StreamWindows, WholeWindows, Windows

# The samples of one segment, FP32 [n] each, and with the last of them why it ends.
Pieces = AsyncGenerator[tuple[np.ndarray, EndReason | None], None]


@dataclass(frozen=True)
class PipelineSettings:
    """How requests are worked on; each number is a parameter of the same name in the models' config.pbtxt."""

    max_segment_s: float = 15.0  # longer texts are split into segments that take so long at most, as estimated
    concurrent_segments: int = 3  # of one request: later ones are generated while earlier ones are spoken
    max_attempts: int = 3  # for a segment whose speech does not end
    max_silence_s: float = 3.0  # longer silence is no pause, and ends its segment
    cached_references: int = 256  # of clients that send the same reference audio again and again

    def __post_init__(self) -> None:
        if self.max_segment_s < MIN_SEGMENT_LIMIT_S:
            raise ValueError(f"max_segment_s must be {MIN_SEGMENT_LIMIT_S} or more: {self}")
        if min(self.concurrent_segments, self.max_attempts) < 1:
            raise ValueError(f"concurrent_segments and max_attempts must be 1 or more: {self}")


@dataclass(frozen=True)
class Speech:
    """A piece of speech.

    Attributes:
        waveform: FP32 [samples].
        global_tokens, semantic_tokens: INT32 [32] and INT32 [m] of the whole speech, with its last piece only.
        end_reason: why the speech ended, with its last piece only.
    """

    waveform: np.ndarray
    global_tokens: np.ndarray | None = None
    semantic_tokens: np.ndarray | None = None
    end_reason: EndReason | None = None


@dataclass(frozen=True)
class _SettledVoice:
    """The voice of a whole request: the same global tokens, and the same acoustic ones, for all of its segments.

    Attributes:
        prompt_of: the prompt of a segment's text, up to where its semantic tokens follow.
    """

    global_tokens: np.ndarray
    prompt_of: Callable[[str], list[int]]


class Pipeline:
    """Serves any number of requests at once: each is a coroutine that awaits its models."""

    def __init__(
        self,
        models: SparkTtsModels,
        prompts: Prompts,
        facts: ModelFacts,
        settings: PipelineSettings,
        stream_settings: StreamSettings,
    ) -> None:
        self._models = models
        self._prompts = prompts
        self._facts = facts
        self._settings = settings
        self._stream_settings = stream_settings
        self._full_stretches = full_stretches(facts.wave_field_tokens)
        self._references = ReferenceCache(self._tokenize, settings.cached_references)

    async def whole(self, request: SynthesisRequest, observation: Observation = UNOBSERVED) -> Speech:
        """All of the speech at once, each segment decoded exactly when it is complete."""

        def new_windows(_playback: Playback) -> Windows:
            return WholeWindows(self._facts.receptive_field_tokens, self._full_stretches[-1])

        speeches = self._speak(request, observation, new_windows, is_streamed=False)
        pieces = [speech async for speech in speeches]
        return dataclasses.replace(pieces[-1], waveform=np.concatenate([piece.waveform for piece in pieces]))

    def stream(self, request: SynthesisRequest, observation: Observation = UNOBSERVED) -> AsyncGenerator[Speech, None]:
        """The speech in pieces that a client only concatenates; the language model goes on while pieces are decoded."""
        settings, facts = self._stream_settings, self._facts
        full_chunks = [size - settings.fade for size in self._full_stretches]

        def new_windows(playback: Playback) -> Windows:
            return StreamWindows(settings, facts.receptive_field_tokens, facts.tokens_per_s, playback, full_chunks)

        return self._speak(request, observation, new_windows, is_streamed=True)

    async def _speak(
        self,
        request: SynthesisRequest,
        observation: Observation,
        new_windows: Callable[[Playback], Windows],
        is_streamed: bool,
    ) -> AsyncGenerator[Speech, None]:
        segments = await asyncio.to_thread(self._split, request)
        voice = await self._settle_voice(request, segments[0].text, observation)
        plans = [self._plan(request, voice, index, segment) for index, segment in enumerate(segments)]
        generations: list[SegmentGeneration] = []

        def start_until(num_segments: int) -> None:
            for plan in plans[len(generations) : num_segments]:
                generations.append(SegmentGeneration(self._models, plan, observation))

        playback = Playback()
        max_samples = self._max_tokens(request) * self._facts.samples_per_token
        max_silence_s = self._settings.max_silence_s if request.fixed_tokens is None else math.inf
        joiner = SegmentJoiner(segments, self._facts.sample_rate_hz, max_samples)
        said: list[np.ndarray] = []  # the semantic tokens of each segment

        def decode(generation: SegmentGeneration) -> Pieces:
            windows = new_windows(playback)
            return self._decode(generation, voice.global_tokens, windows, max_silence_s, observation)

        # of a stream the first segment alone until its first piece is out: nothing shall delay that
        segments_at_first = 1 if is_streamed else self._settings.concurrent_segments
        observation.reached(Stage.PREFILL)
        try:
            for index in range(len(segments)):
                start_until(index + segments_at_first)
                generation, num_spoken = generations[index], 0
                pieces = decode(generation) if is_streamed else _in_one_piece(generation, decode)
                async with aclosing(pieces):
                    async for piece, segment_end in pieces:
                        start_until(index + self._settings.concurrent_segments)
                        samples = joiner.join(piece, segment_end)
                        num_spoken += min(len(piece), len(samples))
                        playback.sent(len(samples) / self._facts.sample_rate_hz, time.monotonic())
                        if segment_end is not None or joiner.end_reason is not None:
                            num_tokens = -(-num_spoken // self._facts.samples_per_token)
                            said.append(generation.semantic_tokens(0, num_tokens))
                        if joiner.end_reason is not None:
                            yield Speech(samples, voice.global_tokens, np.concatenate(said), joiner.end_reason)
                            return
                        yield Speech(samples)
        finally:
            await asyncio.gather(*(generation.close() for generation in generations))

    async def _decode(
        self,
        generation: SegmentGeneration,
        global_tokens: np.ndarray,
        windows: Windows,
        max_silence_s: float,
        observation: Observation,
    ) -> Pieces:
        """The samples of one segment piece by piece, and with the last one why it ends."""
        cross_fade = CrossFade()
        silence = SilenceDetector(self._facts.sample_rate_hz, max_silence_s)
        end_reason, num_decoded = None, 0
        while end_reason is None:
            window = windows.next(generation.num_tokens, generation.has_ended)
            if window is None:
                if generation.has_ended:
                    raise RuntimeError(f"no end after {generation.num_tokens} tokens: {generation.end_reason}")
                await generation.progress()
                continue
            if generation.has_ended and window.keep_end == generation.num_tokens:
                end_reason = generation.end_reason
            observation.reached(Stage.FIRST_WINDOW)
            samples = await self._models.decode(
                global_tokens,
                generation.semantic_tokens(window.begin, window.end),
                window.keep_begin - window.begin,
                window.keep_end + window.fade - window.begin,
            )
            observation.reached(Stage.REMAINDER)
            samples = cross_fade.join(samples, window.fade * self._facts.samples_per_token)
            silence.feed(samples)
            if silence.num_good is not None:
                samples, end_reason = samples[: max(0, silence.num_good - num_decoded)], EndReason.RUN_ON
                await generation.close()
            num_decoded += len(samples)
            yield samples, end_reason

    def _split(self, request: SynthesisRequest) -> list[Segment]:
        text = normalize_text(request.text) if request.normalize_text else request.text
        return [Segment(text, 0.0)] if request.fixed_tokens else split_text(text, self._settings.max_segment_s)

    def _plan(self, request: SynthesisRequest, voice: _SettledVoice, index: int, segment: Segment) -> SegmentPlan:
        tokens = self._prompts.tokens
        limit = self._max_tokens(request)
        guard = token_budget(segment.text, self._facts.tokens_per_s, _wanted_syllables_per_s(request))
        max_tokens = min(limit, guard) if request.fixed_tokens is None else request.fixed_tokens
        return SegmentPlan(
            prompt=voice.prompt_of(segment.text),
            phase=Phase(tokens.semantic_tokens, max_tokens, end_id=tokens.im_end, min_tokens=request.fixed_tokens or 1),
            is_request_limit=max_tokens == limit,
            tokens_per_s=self._facts.tokens_per_s,
            sampling=request.sampling,
            index=index,
            max_attempts=1 if request.sampling.is_greedy else self._settings.max_attempts,
        )

    def _max_tokens(self, request: SynthesisRequest) -> int:
        return request.fixed_tokens or max(1, int(request.max_audio_s * self._facts.tokens_per_s))

    async def _settle_voice(
        self, request: SynthesisRequest, first_text: str, observation: Observation
    ) -> _SettledVoice:
        voice = request.voice
        if isinstance(voice, ControlledVoice):
            return await self._invent_voice(request, voice, first_text)
        if isinstance(voice, ReferenceVoice):
            voice = await self._references.get(voice, observation)
        cloned: TokenVoice = voice
        return _SettledVoice(cloned.global_tokens, lambda text: self._prompts.clone(text, cloned))

    async def _tokenize(self, voice: ReferenceVoice) -> TokenVoice:
        if voice.transcript is None:
            return TokenVoice(await self._models.speaker_tokens(voice.waveform))
        return TokenVoice(*await self._models.reference_tokens(voice.waveform), voice.transcript)

    async def _invent_voice(self, request: SynthesisRequest, voice: ControlledVoice, first_text: str) -> _SettledVoice:
        """Have the model choose what the caller left open: pitch, speed, then the 32 tokens of the voice."""
        t = self._prompts.tokens
        prompt = self._prompts.controlled(first_text, voice.style)
        chosen: list[int] = []

        async def extend(kind: range, num_tokens: int) -> list[int]:
            phase = Phase(kind, num_tokens)
            return await _all_ids(self._models.generate([*prompt, *chosen], phase, request.sampling))

        for kind, value in ((t.pitch_values, voice.pitch_value), (t.speed_values, voice.speed_value)):
            chosen += await extend(kind, 1) if value is None else [kind[value]]
        chosen += [t.end_acoustic, t.start_global]
        speaker = await extend(t.global_tokens, NUM_GLOBAL_TOKENS)
        chosen += [*speaker, t.end_global, t.start_semantic]
        return _SettledVoice(
            token_values(speaker, t.global_tokens),
            lambda text: [*self._prompts.controlled(text, voice.style), *chosen],
        )


async def _in_one_piece(generation: SegmentGeneration, decode: Callable[[SegmentGeneration], Pieces]) -> Pieces:
    """A segment that nobody hears before it is complete; so one that does not end can be generated again, however late
    that is seen."""
    while True:
        pieces = [piece async for piece in decode(generation)]
        end_reason = pieces[-1][1]
        if end_reason is not EndReason.RUN_ON or not generation.try_again():
            yield np.concatenate([samples for samples, _ in pieces]), end_reason
            return


def _wanted_syllables_per_s(request: SynthesisRequest) -> float | None:
    return request.voice.speed_value if isinstance(request.voice, ControlledVoice) else None


async def _all_ids(generation: AsyncGenerator[list[int], None]) -> list[int]:
    """The ids of a whole phase; being cancelled stops the language model."""
    async with aclosing(generation) as groups:
        return [token_id async for group in groups for token_id in group]
