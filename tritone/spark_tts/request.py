"""A synthesis request: what a caller may send, checked field by field."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tritone.audio import check_reference, resample
from tritone.errors import InvalidInput
from tritone.spark_tts.prompts import Style
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS, SpeechTokens, check_codes
from tritone.voices import TokenVoice, VoiceLibrary

GENDERS = ("female", "male")
LEVELS = ("very_low", "low", "moderate", "high", "very_high")
DEFAULT_LEVEL = "moderate"

Inputs = Mapping[str, np.ndarray]  # by tensor name; a tensor that the caller did not send is not in it


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; each number is a parameter of the same name in the model's config.pbtxt."""

    max_text_chars: int = 20_000  # twenty minutes of English
    min_reference_s: float = 0.5
    max_reference_s: float = 30.0
    max_audio_s: float = 1200.0


@dataclass(frozen=True)
class Sampling:
    """How the language model draws tokens; the defaults are the published ones. Temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 50  # 0: no limit
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int | None = None  # None: another one each time

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True)
class ReferenceVoice:
    """Clone the voice of `waveform`, FP32 [n] at the model's sample rate, with its transcript or without."""

    waveform: np.ndarray
    transcript: str | None


@dataclass(frozen=True)
class ControlledVoice:
    """A voice made from labels; a fine value (pitch in mel, speed in syllables/s) replaces the model's own."""

    style: Style
    pitch_value: int | None
    speed_value: int | None


@dataclass(frozen=True)
class SynthesisRequest:
    """One utterance to make."""

    text: str
    voice: ReferenceVoice | TokenVoice | ControlledVoice
    sampling: Sampling
    max_audio_s: float
    normalize_text: bool = False  # numbers, dates and units to words
    fixed_tokens: int | None = None  # exactly so many, whatever the text: for measurements on equal work


class RequestParser:
    """Turns a caller's tensors into a `SynthesisRequest`, or says which field is wrong."""

    def __init__(
        self,
        tokens: SpeechTokens,
        voices: VoiceLibrary,
        limits: Limits,
        sample_rate_hz: int,
        tokens_per_s: float,
    ) -> None:
        self._tokens = tokens
        self._voices = voices
        self._limits = limits
        self._sample_rate_hz = sample_rate_hz
        self._tokens_per_s = tokens_per_s

    def parse(self, inputs: Inputs) -> SynthesisRequest:
        """The request that `inputs` describe.

        Raises:
            InvalidInput: a value is missing, out of range or cannot be combined with another.
        """
        limit_s = self._limits.max_audio_s
        max_audio_s = _number(inputs, "max_audio_s", 0, math.inf, limit_s)
        if not 0 < max_audio_s <= limit_s:
            raise InvalidInput(
                f"max_audio_s must be over 0 and at most {limit_s:g} (parameter max_audio_s), got {max_audio_s:g}"
            )
        normalize_text = "normalize_text" in inputs and bool(_single(inputs, "normalize_text"))
        return SynthesisRequest(
            self._text(inputs),
            self._voice(inputs),
            _sampling(inputs),
            max_audio_s,
            normalize_text,
            self._fixed_tokens(inputs),
        )

    def _fixed_tokens(self, inputs: Inputs) -> int | None:
        if "fixed_tokens" not in inputs:
            return None
        if "max_audio_s" in inputs:
            raise InvalidInput("fixed_tokens and max_audio_s both say how long the speech is: send one of them")
        return _integer(inputs, "fixed_tokens", 1, int(self._limits.max_audio_s * self._tokens_per_s), 0)

    def _text(self, inputs: Inputs) -> str:
        text = (_string(inputs, "target_text") or "").strip()
        if not text:
            raise InvalidInput("target_text is empty: send what to say")
        if len(text) > self._limits.max_text_chars:
            raise InvalidInput(
                f"target_text has {len(text)} characters, at most {self._limits.max_text_chars} are allowed: split it, "
                "or let the operator raise the model's parameter max_text_chars"
            )
        return text

    def _voice(self, inputs: Inputs) -> ReferenceVoice | TokenVoice | ControlledVoice:
        stored_name = _string(inputs, "voice")
        sources = {
            "reference_wav": "reference_wav" in inputs,
            "voice": stored_name is not None,
            "global_tokens": "global_tokens" in inputs,
            "gender": _string(inputs, "gender") is not None,
        }
        named = [field for field, present in sources.items() if present]
        if len(named) != 1:
            what = f"got {' and '.join(named)}" if named else "got none"
            raise InvalidInput(f"send one voice, as one of {', '.join(sources)}: {what}")
        belongs = {  # fields that mean something only beside the voice they belong to
            "reference_wav_len": ("reference_wav",),
            "reference_sample_rate": ("reference_wav",),
            "reference_text": ("reference_wav", "global_tokens"),
            "semantic_tokens": ("global_tokens",),
            **dict.fromkeys(("pitch", "speed", "pitch_value", "speed_value"), ("gender",)),
        }
        for field, voices in belongs.items():
            # the published clients send an empty transcript for "none"
            is_text = field in ("reference_text", "pitch", "speed")
            is_present = _string(inputs, field) is not None if is_text else field in inputs
            if is_present and named[0] not in voices:
                raise InvalidInput(f"{field} needs {' or '.join(voices)} and cannot be combined with {named[0]}")
        if named[0] == "reference_wav":
            return self._reference(inputs)
        if named[0] == "gender":
            return self._controlled(inputs)
        if stored_name is not None:
            return self._checked(self._voices.load(stored_name))
        return self._checked(
            TokenVoice(
                inputs["global_tokens"].reshape(-1),
                inputs["semantic_tokens"].reshape(-1) if "semantic_tokens" in inputs else None,
                _string(inputs, "reference_text"),
            )
        )

    def _reference(self, inputs: Inputs) -> ReferenceVoice:
        waveform = inputs["reference_wav"].reshape(-1)
        length = _integer(inputs, "reference_wav_len", 1, len(waveform), len(waveform))
        rate = _integer(inputs, "reference_sample_rate", 8000, 192000, self._sample_rate_hz)
        waveform = waveform[:length]
        check_reference(
            waveform, rate, min_duration_s=self._limits.min_reference_s, max_duration_s=self._limits.max_reference_s
        )
        return ReferenceVoice(resample(waveform, rate, self._sample_rate_hz), _string(inputs, "reference_text"))

    def _checked(self, voice: TokenVoice) -> TokenVoice:
        if (voice.semantic_tokens is None) != (voice.transcript is None):
            raise InvalidInput("semantic_tokens and reference_text belong together: send both, or global_tokens alone")
        if len(voice.global_tokens) != NUM_GLOBAL_TOKENS:
            raise InvalidInput(f"global_tokens must be {NUM_GLOBAL_TOKENS} values, got {len(voice.global_tokens)}")
        check_codes("global_tokens", voice.global_tokens, len(self._tokens.global_tokens))
        if voice.semantic_tokens is not None:
            check_codes("semantic_tokens", voice.semantic_tokens, len(self._tokens.semantic_tokens))
        return voice

    def _controlled(self, inputs: Inputs) -> ControlledVoice:
        def fine(field: str, values: range) -> int | None:
            return _integer(inputs, field, 0, len(values) - 1, -1) if field in inputs else None

        return ControlledVoice(
            Style(
                GENDERS.index(_choice(inputs, "gender", GENDERS, "")),
                LEVELS.index(_choice(inputs, "pitch", LEVELS, DEFAULT_LEVEL)),
                LEVELS.index(_choice(inputs, "speed", LEVELS, DEFAULT_LEVEL)),
            ),
            pitch_value=fine("pitch_value", self._tokens.pitch_values),
            speed_value=fine("speed_value", self._tokens.speed_values),
        )


def _sampling(inputs: Inputs) -> Sampling:
    default = Sampling()
    top_p = _number(inputs, "top_p", 0, 1, default.top_p)
    if top_p == 0:
        raise InvalidInput("top_p must be over 0")
    return Sampling(
        temperature=_number(inputs, "temperature", 0, 2, default.temperature),
        top_k=_integer(inputs, "top_k", 0, 10_000, default.top_k),
        top_p=top_p,
        repetition_penalty=_number(inputs, "repetition_penalty", 0.5, 2, default.repetition_penalty),
        seed=_integer(inputs, "seed", 0, 2**64 - 1, 0) if "seed" in inputs else None,
    )


def _single(inputs: Inputs, field: str) -> object:
    array = inputs[field]
    if array.size != 1:
        raise InvalidInput(f"{field} must be one value, got shape {list(array.shape)}")
    return array.reshape(-1)[0]


def _string(inputs: Inputs, field: str) -> str | None:
    """The text of a BYTES tensor, None when it is absent or empty."""
    if field not in inputs:
        return None
    value = _single(inputs, field)
    try:
        return (value.decode("utf-8") if isinstance(value, bytes) else str(value)) or None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{field} is not valid UTF-8: {error.reason} at byte {error.start}") from error


def _number(inputs: Inputs, field: str, low: float, high: float, default: float) -> float:
    if field not in inputs:
        return default
    value = float(_single(inputs, field))  # type: ignore[arg-type]
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput(f"{field} must be between {low:g} and {high:g}, got {value:g}")
    return value


def _integer(inputs: Inputs, field: str, low: int, high: int, default: int) -> int:
    if field not in inputs:
        return default
    value = int(_single(inputs, field))  # type: ignore[call-overload]
    if not low <= value <= high:
        raise InvalidInput(f"{field} must be between {low} and {high}, got {value}")
    return value


def _choice(inputs: Inputs, field: str, choices: tuple[str, ...], default: str) -> str:
    value = _string(inputs, field) or default
    if value not in choices:
        raise InvalidInput(f"{field} must be one of {', '.join(choices)}, got {value!r}")
    return value
