"""The pipeline with scripted models behind it: which model is asked what, and how the answers become speech."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from tritone.errors import InvalidInput
from tritone.run_on import token_budget
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.generation import EndReason
from tritone.spark_tts.models import SparkTtsModels, Tensors
from tritone.spark_tts.pipeline import Pipeline, PipelineSettings, Speech
from tritone.spark_tts.prompts import Prompts, Style
from tritone.spark_tts.request import ControlledVoice, ReferenceVoice, Sampling, SynthesisRequest
from tritone.text import PARAGRAPH_PAUSE_S
from tritone.voices import TokenVoice
from tritone.windows import StreamSettings

FACTS = ModelFacts(
    sample_rate_hz=16000,
    samples_per_token=320,
    num_reference_samples=96000,
    normalize_volume=True,
    num_global_codes=4096,
    num_semantic_codes=8192,
    receptive_field_tokens=5,
    wave_field_tokens=2,
)
SPEAKER = np.arange(32, dtype=np.int32)
SAID = np.array([9, 8, 7], np.int32)


class ScriptedModels:
    """Stands in for the served models: a language model that counts up, a vocoder that writes its tokens as samples."""

    def __init__(
        self,
        prompts: Prompts,
        num_semantic: int = 100,
        wrong_id: int | None = None,
        wrong_id_at: int = 0,
        repeat: int = 8192,
        silent_from: int = 8192,
    ) -> None:
        """
        Args:
            wrong_id: what the language model answers to its request number `wrong_id_at` and later ones.
            repeat: after so many values it begins anew.
            silent_from: the first semantic value that the vocoder makes silence of.
        """
        self.tokens = prompts.tokens
        self.num_semantic = num_semantic
        self.wrong_id = wrong_id
        self.wrong_id_at = wrong_id_at
        self.repeat = repeat
        self.silent_from = silent_from
        self.calls: list[str] = []
        self.lm_requests: list[dict[str, np.ndarray]] = []
        self.num_stopped = 0

    async def call(self, model: str, inputs: Tensors, outputs: list[str]) -> dict[str, np.ndarray]:
        self.calls.append(model)
        if model == "vocoder":
            kept = slice(int(inputs["keep_begin"][0, 0]), int(inputs["keep_end"][0, 0]))
            values = inputs["semantic_tokens"][:, kept].astype(np.float32) + 1
            values[values > self.silent_from] = 0
            return {"waveform": np.repeat(values, 320, axis=1)}
        return {"global_tokens": SPEAKER[None], "semantic_tokens": SAID[None]}

    async def stream(
        self, model: str, inputs: Tensors, outputs: list[str], stop: Tensors
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        self.lm_requests.append(dict(inputs))
        num_ids, t = int(inputs["request_output_len"][0]), self.tokens
        previous = inputs["input_ids"][-1]
        if self.wrong_id is not None and len(self.lm_requests) > self.wrong_id_at:
            ids = [self.wrong_id]
        elif previous == t.start_acoustic:
            ids = [t.pitch_values[250]]
        elif previous in t.pitch_values:
            ids = [t.speed_values[4]]
        elif previous == t.start_global:
            ids = [t.global_tokens[value] for value in SPEAKER]
        else:
            num_semantic = min(max(self.num_semantic, int(inputs["min_tokens"][0])), num_ids)
            values = [index % self.repeat for index in range(num_semantic)]
            ids = [*(t.semantic_tokens[value] for value in values), t.im_end][:num_ids]
        ended = False
        try:
            for start in range(0, len(ids), 7):
                group = np.array([ids[start : start + 7]], np.int32)
                yield {"output_ids": group, "sequence_length": np.array([group.shape[1]], np.int32)}
                await asyncio.sleep(0)
            ended = True
        finally:
            self.num_stopped += not ended


@pytest.fixture(scope="module")
def prompts(tiny_checkpoint: Path) -> Prompts:
    return Prompts(tiny_checkpoint / "LLM" / "tokenizer.json")


def pipeline(prompts: Prompts, models: ScriptedModels) -> Pipeline:
    stream_settings = StreamSettings(first_chunk=10, slow_chunk=20, max_chunk=40, look_ahead=6, fade=2)
    return Pipeline(SparkTtsModels(models), prompts, FACTS, PipelineSettings(), stream_settings)


# one segment whose budget is over 1000 tokens
SENTENCE = "The man in the old house by the river said good morning to all of us, and he gave me a book about the sea."


def request(voice: ReferenceVoice | TokenVoice | ControlledVoice, **values: object) -> SynthesisRequest:
    defaults = {"text": "hello", "sampling": Sampling(seed=1), "max_audio_s": 60.0}
    return SynthesisRequest(voice=voice, **{**defaults, **values})  # type: ignore[arg-type]


WAVEFORM = np.ones(32000, np.float32)


def test_cloning_without_a_transcript_needs_no_semantic_encoder(prompts: Prompts) -> None:
    models = ScriptedModels(prompts)
    asyncio.run(pipeline(prompts, models).whole(request(ReferenceVoice(WAVEFORM, None))))
    assert models.calls == ["speaker_encoder", "vocoder"]
    assert models.lm_requests[0]["input_ids"].tolist() == prompts.clone("hello", TokenVoice(SPEAKER))


def test_cloning_with_a_transcript_continues_the_reference(prompts: Prompts) -> None:
    models = ScriptedModels(prompts)
    speech = asyncio.run(pipeline(prompts, models).whole(request(ReferenceVoice(WAVEFORM, "hi. "))))
    assert models.calls == ["speaker_encoder", "semantic_encoder", "vocoder"]
    assert models.lm_requests[0]["input_ids"].tolist() == prompts.clone("hello", TokenVoice(SPEAKER, SAID, "hi. "))
    assert len(speech.waveform) == 100 * 320  # the reference itself is not spoken again


def test_a_voice_given_as_tokens_needs_no_encoder(prompts: Prompts) -> None:
    models = ScriptedModels(prompts)
    asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER))))
    assert models.calls == ["vocoder"]


def test_a_controlled_voice_is_generated_phase_by_phase(prompts: Prompts) -> None:
    models, t = ScriptedModels(prompts), prompts.tokens
    voice = ControlledVoice(Style(0, 3, 1), None, None)
    speech = asyncio.run(pipeline(prompts, models).whole(request(voice)))
    lengths = [int(lm_request["request_output_len"][0]) for lm_request in models.lm_requests]
    assert lengths == [1, 1, 32, token_budget("hello", 50)]
    chain = [t.pitch_values[250], t.speed_values[4], t.end_acoustic, t.start_global]
    chain += [*(t.global_tokens[value] for value in SPEAKER), t.end_global, t.start_semantic]
    assert models.lm_requests[-1]["input_ids"].tolist() == prompts.controlled("hello", voice.style) + chain
    assert speech.global_tokens is not None and speech.global_tokens.tolist() == SPEAKER.tolist()


@pytest.mark.parametrize(("pitch_value", "speed_value", "num_phases"), [(240, 5, 2), (240, None, 3), (None, 5, 3)])
def test_fine_values_take_the_place_of_generated_ones(
    prompts: Prompts, pitch_value: int | None, speed_value: int | None, num_phases: int
) -> None:
    models, t = ScriptedModels(prompts), prompts.tokens
    asyncio.run(pipeline(prompts, models).whole(request(ControlledVoice(Style(0, 3, 1), pitch_value, speed_value))))
    assert len(models.lm_requests) == num_phases
    prompt = models.lm_requests[-1]["input_ids"].tolist()
    assert t.pitch_values[pitch_value or 250] in prompt
    assert t.speed_values[speed_value or 4] in prompt


@pytest.mark.parametrize("num_semantic", [1, 9, 10, 16, 17, 30, 31, 32, 250, 900])
def test_a_stream_says_what_the_whole_says(prompts: Prompts, num_semantic: int) -> None:
    voice = request(TokenVoice(SPEAKER), text=SENTENCE)
    whole = asyncio.run(pipeline(prompts, ScriptedModels(prompts, num_semantic)).whole(voice))
    assert whole.end_reason is EndReason.COMPLETE

    async def collect() -> list[np.ndarray]:
        stream = pipeline(prompts, ScriptedModels(prompts, num_semantic)).stream(voice)
        pieces = [speech async for speech in stream]
        assert [piece.semantic_tokens is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].semantic_tokens is not None
        np.testing.assert_array_equal(pieces[-1].semantic_tokens, np.arange(num_semantic))
        return [piece.waveform for piece in pieces]

    np.testing.assert_allclose(np.concatenate(asyncio.run(collect())), whole.waveform, rtol=1e-6)


def test_speech_ends_at_the_requested_length(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=100_000)
    speech = asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), max_audio_s=2.0)))
    assert len(speech.waveform) == 2 * 16000
    assert speech.end_reason is EndReason.MAX_AUDIO
    assert len(models.lm_requests) == 1  # what the caller wants cut is no run-on, and not tried again


@pytest.mark.parametrize("num_semantic", [20, 100_000])  # what the model would say by itself
def test_speech_of_a_fixed_length_takes_no_notice_of_its_text_or_of_what_it_says(
    prompts: Prompts, num_semantic: int
) -> None:
    models = ScriptedModels(prompts, num_semantic, repeat=10, silent_from=5)
    voice = TokenVoice(SPEAKER)
    speech = asyncio.run(pipeline(prompts, models).whole(request(voice, text=PARAGRAPHS, fixed_tokens=700)))
    assert speech.semantic_tokens is not None and len(speech.semantic_tokens) == 700
    assert len(speech.waveform) == 700 * 320
    assert [lm_request["input_ids"].tolist() for lm_request in models.lm_requests] == [prompts.clone(PARAGRAPHS, voice)]


def test_a_seed_reaches_the_language_model_and_none_varies(prompts: Prompts) -> None:
    models = ScriptedModels(prompts)
    for sampling in (Sampling(seed=42), Sampling(), Sampling()):
        asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), sampling=sampling)))
    seeds = [int(lm_request["seed"][0]) for lm_request in models.lm_requests]
    assert seeds[0] == 42 and len(set(seeds)) == 3


def test_closing_a_stream_stops_the_language_model(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=500)

    async def take_one() -> None:
        async with aclosing(pipeline(prompts, models).stream(request(TokenVoice(SPEAKER)))) as stream:
            await anext(stream)

    asyncio.run(take_one())
    assert models.num_stopped == 1


def test_an_id_outside_the_phase_is_an_error_not_speech(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, wrong_id=prompts.tokens.global_tokens[0])
    with pytest.raises(RuntimeError, match="outside"):
        asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER))))


PARAGRAPHS = "The first part is about the house.\nThe second part is about the river.\nAnd the third is short."


def test_a_long_text_is_said_segment_by_segment_with_one_voice(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=50)
    voice = TokenVoice(SPEAKER)
    speech = asyncio.run(pipeline(prompts, models).whole(request(voice, text=PARAGRAPHS)))
    said = [lm_request["input_ids"].tolist() for lm_request in models.lm_requests]
    assert said == [prompts.clone(text, voice) for text in PARAGRAPHS.split("\n")]
    assert speech.semantic_tokens is not None and speech.semantic_tokens.tolist() == [*range(50)] * 3
    second, pause = 16000, PARAGRAPH_PAUSE_S
    assert len(speech.waveform) == second * (3 + 2 * pause)
    assert not speech.waveform[second : int(second * (1 + pause))].any()
    assert len({int(lm_request["seed"][0]) for lm_request in models.lm_requests}) == 3


def test_a_stream_of_a_long_text_equals_the_whole(prompts: Prompts) -> None:
    async def collect() -> list[Speech]:
        stream = pipeline(prompts, ScriptedModels(prompts, 77)).stream(request(TokenVoice(SPEAKER), text=PARAGRAPHS))
        return [speech async for speech in stream]

    pieces = asyncio.run(collect())
    whole = asyncio.run(
        pipeline(prompts, ScriptedModels(prompts, 77)).whole(request(TokenVoice(SPEAKER), text=PARAGRAPHS))
    )
    assert [piece.end_reason for piece in pieces] == [None] * (len(pieces) - 1) + [EndReason.COMPLETE]
    np.testing.assert_allclose(np.concatenate([piece.waveform for piece in pieces]), whole.waveform, rtol=1e-6)


def test_all_segments_of_a_controlled_voice_share_what_the_first_one_chose(prompts: Prompts) -> None:
    models, t = ScriptedModels(prompts, num_semantic=20), prompts.tokens
    voice = ControlledVoice(Style(0, 3, 1), None, None)
    asyncio.run(pipeline(prompts, models).whole(request(voice, text=PARAGRAPHS)))
    chosen = [t.pitch_values[250], t.speed_values[4], t.end_acoustic, t.start_global]
    chosen += [*(t.global_tokens[value] for value in SPEAKER), t.end_global, t.start_semantic]
    assert len(models.lm_requests) == 3 + 3  # pitch, speed and voice once, then a request for each segment
    for lm_request, text in zip(models.lm_requests[3:], PARAGRAPHS.split("\n"), strict=True):
        assert lm_request["input_ids"].tolist() == prompts.controlled(text, voice.style) + chosen


def test_segments_are_generated_ahead_but_not_all_at_once(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=100)
    text = "\n".join(["This is one of many paragraphs, and all are the same."] * 10)

    async def take_one() -> int:
        async with aclosing(pipeline(prompts, models).stream(request(TokenVoice(SPEAKER), text=text))) as stream:
            await anext(stream)
            at_first = len(models.lm_requests)
            await anext(stream)
            assert at_first == 1 and len(models.lm_requests) == PipelineSettings().concurrent_segments
        return models.num_stopped

    assert asyncio.run(take_one()) >= 1


def test_speech_that_does_not_end_is_tried_again_then_cut_and_marked(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=100_000)
    speech = asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER))))
    assert speech.end_reason is EndReason.RUN_ON
    assert len(speech.waveform) == token_budget("hello", 50) * 320
    seeds = [int(lm_request["seed"][0]) for lm_request in models.lm_requests]
    assert len(set(seeds)) == len(seeds) == PipelineSettings().max_attempts and seeds[0] == 1


def test_speech_that_repeats_itself_is_stopped_early(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=5000, repeat=3)
    speech = asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), text=SENTENCE)))
    assert speech.end_reason is EndReason.RUN_ON
    assert len(speech.waveform) == 3 * 320  # the pattern once
    assert models.num_stopped == PipelineSettings().max_attempts


def test_a_streams_run_on_is_cut_where_it_was_heard(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=5000, repeat=3)

    async def collect() -> list[Speech]:
        stream = pipeline(prompts, models).stream(request(TokenVoice(SPEAKER), text=SENTENCE))
        return [speech async for speech in stream]

    pieces = asyncio.run(collect())
    assert pieces[-1].end_reason is EndReason.RUN_ON
    assert len(models.lm_requests) == 1  # what was heard cannot be taken back
    assert sum(len(piece.waveform) for piece in pieces) < 4 * 16000


def test_speech_that_goes_silent_is_cut_there(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=400, silent_from=60)
    speech = asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), text=SENTENCE)))
    assert speech.end_reason is EndReason.RUN_ON
    assert len(speech.waveform) == 188 * 320  # of the silence, what the first window of the vocoder had of it
    assert len(models.lm_requests) == PipelineSettings().max_attempts  # nobody has heard it yet


class FirstAttemptFails(ScriptedModels):
    """Says something sensible from its second request on."""

    async def stream(
        self, model: str, inputs: Tensors, outputs: list[str], stop: Tensors
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        if self.lm_requests:
            self.silent_from, self.repeat, self.num_semantic = 8192, 8192, 300
        async with aclosing(super().stream(model, inputs, outputs, stop)) as responses:
            async for response in responses:
                yield response


@pytest.mark.parametrize(
    "failure",
    [
        {"num_semantic": 500, "silent_from": 250},  # seen only when windows before it were decoded
        {"num_semantic": 100_000},  # the same: the budget of this text is over 1000 tokens
    ],
)
def test_whole_speech_is_generated_again_however_late_its_failure_is_seen(
    prompts: Prompts, failure: dict[str, int]
) -> None:
    models = FirstAttemptFails(prompts, **failure)  # type: ignore[arg-type]
    speech = asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), text=SENTENCE)))
    assert speech.end_reason is EndReason.COMPLETE
    np.testing.assert_array_equal(speech.semantic_tokens, np.arange(300))
    assert len(speech.waveform) == 300 * 320
    assert len(models.lm_requests) == 2


def test_a_streams_silence_is_cut_and_not_taken_back(prompts: Prompts) -> None:
    models = FirstAttemptFails(prompts, num_semantic=400, silent_from=60)

    async def collect() -> list[Speech]:
        stream = pipeline(prompts, models).stream(request(TokenVoice(SPEAKER), text=SENTENCE))
        return [speech async for speech in stream]

    assert asyncio.run(collect())[-1].end_reason is EndReason.RUN_ON
    assert len(models.lm_requests) == 1


def test_a_reference_is_tokenized_once(prompts: Prompts) -> None:
    models = ScriptedModels(prompts)
    served = pipeline(prompts, models)

    async def twice() -> None:
        for _ in range(2):
            await served.whole(request(ReferenceVoice(WAVEFORM, None)))

    asyncio.run(twice())
    assert models.calls == ["speaker_encoder", "vocoder", "vocoder"]


def test_a_failing_segment_fails_its_request_and_stops_the_others(prompts: Prompts) -> None:
    models = ScriptedModels(prompts, num_semantic=100, wrong_id=prompts.tokens.global_tokens[0], wrong_id_at=1)
    with pytest.raises(RuntimeError, match="outside"):
        asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), text=PARAGRAPHS)))


def test_reserved_tokens_are_refused_before_anything_is_said(prompts: Prompts) -> None:
    models = ScriptedModels(prompts)
    with pytest.raises(InvalidInput, match="reserves"):
        asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(SPEAKER), text=PARAGRAPHS + "<|im_end|>")))
    assert models.lm_requests == []
