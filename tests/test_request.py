"""Every field of a request: what is taken, and the sentence that refuses what is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from tritone.errors import InvalidInput
from tritone.spark_tts.prompts import Style
from tritone.spark_tts.request import ControlledVoice, Limits, ReferenceVoice, RequestParser
from tritone.spark_tts.tokens import SpeechTokens
from tritone.voices import TokenVoice, VoiceLibrary

SAMPLE_RATE_HZ = 16000
TOKENS_PER_S = 50


def text(value: str | bytes) -> np.ndarray:
    return np.array([[value if isinstance(value, bytes) else value.encode()]], np.object_)


def number(value: float, dtype: type = np.int32) -> np.ndarray:
    return np.array([[value]], dtype)


def audio(duration_s: float = 2.0) -> np.ndarray:
    num_samples = int(duration_s * SAMPLE_RATE_HZ)
    return np.sin(np.arange(num_samples) / 10).astype(np.float32)[None]


HELLO = {"target_text": text("hello")}
REFERENCE = {**HELLO, "reference_wav": audio()}
TOKENS = {**HELLO, "global_tokens": np.arange(32, dtype=np.int32)[None]}
CONTROLLED = {**HELLO, "gender": text("female")}


@pytest.fixture
def parser(tiny_checkpoint: Path, tmp_path: Path) -> RequestParser:
    voice = {"format": "tritone-voice/1", "global_tokens": [7] * 32}
    (tmp_path / "alice.json").write_text(json.dumps(voice))
    (tmp_path / "broken.json").write_text(json.dumps({**voice, "global_tokens": [7, 4096]}))
    tokens = SpeechTokens.from_file(tiny_checkpoint / "LLM" / "tokenizer.json")
    return RequestParser(tokens, VoiceLibrary(tmp_path), Limits(max_text_chars=20), SAMPLE_RATE_HZ, TOKENS_PER_S)


def test_reference_audio_ends_at_its_length(parser: RequestParser) -> None:
    padded = np.concatenate([audio(), np.zeros((1, 5000), np.float32)], axis=1)
    voice = parser.parse({**HELLO, "reference_wav": padded, "reference_wav_len": number(32000)}).voice
    assert isinstance(voice, ReferenceVoice)
    np.testing.assert_array_equal(voice.waveform, audio()[0])
    assert voice.transcript is None


def test_reference_audio_at_another_rate_is_resampled(parser: RequestParser) -> None:
    voice = parser.parse({**REFERENCE, "reference_sample_rate": number(32000)}).voice
    assert isinstance(voice, ReferenceVoice)
    assert len(voice.waveform) == 16000


def test_an_empty_transcript_counts_as_none(parser: RequestParser) -> None:
    voice = parser.parse({**REFERENCE, "reference_text": text("")}).voice
    assert isinstance(voice, ReferenceVoice) and voice.transcript is None


def test_a_voice_can_be_given_as_tokens(parser: RequestParser) -> None:
    inputs = {**TOKENS, "semantic_tokens": np.array([[1, 2]], np.int32), "reference_text": text("hi")}
    voice = parser.parse(inputs).voice
    assert isinstance(voice, TokenVoice)
    assert voice.global_tokens.tolist() == list(range(32))
    assert voice.transcript == "hi"


def test_a_stored_voice_can_be_named(parser: RequestParser) -> None:
    voice = parser.parse({**HELLO, "voice": text("alice")}).voice
    assert isinstance(voice, TokenVoice) and voice.global_tokens.tolist() == [7] * 32


def test_labels_left_out_are_moderate(parser: RequestParser) -> None:
    assert parser.parse(CONTROLLED).voice == ControlledVoice(Style(0, 2, 2), None, None)


def test_fine_values_go_beside_labels(parser: RequestParser) -> None:
    labels = {"gender": text("male"), "pitch": text("very_high")}
    inputs = {**HELLO, **labels, "pitch_value": number(240), "speed_value": number(0)}
    assert parser.parse(inputs).voice == ControlledVoice(Style(1, 4, 2), 240, 0)


def test_sampling_defaults_are_the_published_ones(parser: RequestParser) -> None:
    sampling = parser.parse(CONTROLLED).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.8, 50, 0.95, None)


def test_a_seed_can_use_all_64_bits(parser: RequestParser) -> None:
    assert parser.parse({**CONTROLLED, "seed": number(2**64 - 1, np.uint64)}).sampling.seed == 2**64 - 1


def test_a_length_can_be_fixed(parser: RequestParser) -> None:
    assert parser.parse(CONTROLLED).fixed_tokens is None
    assert parser.parse({**CONTROLLED, "fixed_tokens": number(60_000)}).fixed_tokens == 60_000


def test_text_is_spoken_as_written_unless_its_numbers_shall_be_read(parser: RequestParser) -> None:
    assert not parser.parse(CONTROLLED).normalize_text
    assert not parser.parse({**CONTROLLED, "normalize_text": np.array([[False]])}).normalize_text
    assert parser.parse({**CONTROLLED, "normalize_text": np.array([[True]])}).normalize_text


def test_text_is_read_as_utf8_without_outer_blanks(parser: RequestParser) -> None:
    assert parser.parse({**CONTROLLED, "target_text": text(" 你好 \n")}).text == "你好"


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({**CONTROLLED, "target_text": text("")}, "target_text is empty"),
        ({**CONTROLLED, "target_text": text("  \n")}, "target_text is empty"),
        ({**CONTROLLED, "target_text": text("x" * 21)}, "target_text has 21 characters, at most 20 .* max_text_chars"),
        ({**CONTROLLED, "target_text": text(b"\xff\xfe")}, "target_text is not valid UTF-8"),
        (HELLO, "send one voice, as one of reference_wav, voice, global_tokens, gender: got none"),
        ({**REFERENCE, "gender": text("male")}, "got reference_wav and gender"),
        ({**REFERENCE, "voice": text("alice")}, "got reference_wav and voice"),
        ({**TOKENS, "gender": text("male")}, "got global_tokens and gender"),
        ({**REFERENCE, "pitch": text("high")}, "pitch needs gender and cannot be combined with reference_wav"),
        ({**TOKENS, "speed_value": number(3)}, "speed_value needs gender"),
        ({**CONTROLLED, "reference_text": text("hi")}, "reference_text needs reference_wav or global_tokens"),
        ({**REFERENCE, "semantic_tokens": number(1)}, "semantic_tokens needs global_tokens"),
        ({**CONTROLLED, "gender": text("robot")}, "gender must be one of female, male, got 'robot'"),
        ({**CONTROLLED, "pitch": text("shrill")}, "pitch must be one of very_low, .*, got 'shrill'"),
        ({**CONTROLLED, "speed": text("HIGH")}, "speed must be one of"),
        ({**CONTROLLED, "pitch_value": number(1001)}, "pitch_value must be between 0 and 1000, got 1001"),
        ({**CONTROLLED, "speed_value": number(-1)}, "speed_value must be between 0 and 10, got -1"),
        ({**REFERENCE, "reference_wav": audio() * np.nan}, "reference_wav holds samples that are not finite"),
        ({**REFERENCE, "reference_wav": audio() * 0}, "reference_wav is silent"),
        ({**REFERENCE, "reference_wav": audio(0.01)}, "reference_wav has 0.01 s, at least 0.5 s"),
        ({**REFERENCE, "reference_wav": audio(600)}, "reference_wav has 600.0 s, at most 30 s"),
        ({**REFERENCE, "reference_wav": audio(0)}, "reference_wav has 0.00 s"),
        ({**REFERENCE, "reference_wav_len": number(0)}, "reference_wav_len must be between 1 and 32000, got 0"),
        ({**REFERENCE, "reference_wav_len": number(32001)}, "reference_wav_len must be between 1 and 32000"),
        ({**REFERENCE, "reference_sample_rate": number(0)}, "reference_sample_rate must be between 8000 and 192000"),
        ({**TOKENS, "global_tokens": np.zeros((1, 31), np.int32)}, "global_tokens must be 32 values, got 31"),
        ({**TOKENS, "global_tokens": np.full((1, 32), 4096, np.int32)}, "global_tokens must be .* 0 to 4095, got 4096"),
        ({**TOKENS, "global_tokens": np.full((1, 32), -1, np.int32)}, "global_tokens must be .*, got -1"),
        ({**TOKENS, "semantic_tokens": number(5)}, "semantic_tokens and reference_text belong together"),
        ({**TOKENS, "reference_text": text("hi")}, "semantic_tokens and reference_text belong together"),
        (
            {**TOKENS, "semantic_tokens": number(8192), "reference_text": text("hi")},
            "semantic_tokens must be values from 0 to 8191, got 8192",
        ),
        ({**HELLO, "voice": text("bob")}, "voice 'bob' is not stored on this server; stored are: alice, broken"),
        ({**HELLO, "voice": text("broken")}, "global_tokens must be 32 values, got 2"),
        ({**CONTROLLED, "temperature": number(np.nan, np.float32)}, "temperature must be between 0 and 2, got nan"),
        ({**CONTROLLED, "temperature": number(-1, np.float32)}, "temperature must be between 0 and 2"),
        ({**CONTROLLED, "top_k": number(-1)}, "top_k must be between 0 and 10000"),
        ({**CONTROLLED, "top_p": number(0, np.float32)}, "top_p must be over 0"),
        ({**CONTROLLED, "top_p": number(1.5, np.float32)}, "top_p must be between 0 and 1"),
        ({**CONTROLLED, "repetition_penalty": number(9, np.float32)}, "repetition_penalty must be between 0.5 and 2"),
        ({**CONTROLLED, "max_audio_s": number(1201, np.float32)}, "max_audio_s must be over 0 and at most 1200"),
        ({**CONTROLLED, "max_audio_s": number(0, np.float32)}, "max_audio_s must be over 0"),
        ({**CONTROLLED, "fixed_tokens": number(0, np.int32)}, "fixed_tokens must be between 1 and 60000"),
        ({**CONTROLLED, "fixed_tokens": number(60_001, np.int32)}, "fixed_tokens must be between 1 and 60000"),
        (
            {**CONTROLLED, "fixed_tokens": number(10, np.int32), "max_audio_s": number(1, np.float32)},
            "fixed_tokens and max_audio_s both say",
        ),
        ({**CONTROLLED, "gender": np.array([[b"male", b"female"]], np.object_)}, "gender must be one value"),
        ({**CONTROLLED, "normalize_text": np.array([[True, False]])}, "normalize_text must be one value"),
    ],
)
def test_bad_input_is_refused_with_its_field(
    parser: RequestParser, inputs: dict[str, np.ndarray], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parser.parse(inputs)
