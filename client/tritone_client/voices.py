"""The four ways to say whose voice should speak."""

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np

from tritone_client.audio import read_server_audio, to_server_audio
from tritone_client.tensors import number_tensor, text_tensor

Gender = Literal["female", "male"]
Level = Literal["very_low", "low", "moderate", "high", "very_high"]

VOICE_FILE_FORMAT = "tritone-voice/1"


class Voice(Protocol):
    """Anything that can describe a voice to the server."""

    def tensors(self) -> dict[str, np.ndarray]:
        """The request's tensors that choose this voice, by name."""
        ...


@dataclass(frozen=True, eq=False)
class ReferenceVoice:
    """The voice of a recording, cloned. Each request sends it anew: for many, make a TokenVoice of it once.

    Attributes:
        waveform: float32 [n], 16 kHz.
        transcript: what the recording says, word for word; the clone then follows its manner of speaking too.
            A wrong transcript spoils the speech: better none. An empty one is none.
    """

    waveform: np.ndarray
    transcript: str | None = None

    @classmethod
    def from_file(cls, path: str | PathLike[str], transcript: str | None = None) -> Self:
        """The voice in an audio file: any format that soundfile reads, any sample rate and channel count.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it cannot be read as audio.
        """
        return cls(read_server_audio(path), transcript)

    @classmethod
    def from_waveform(cls, waveform: np.ndarray, sample_rate_hz: int, transcript: str | None = None) -> Self:
        """The voice in an array, [n] or [n, channels], of any sample rate."""
        return cls(to_server_audio(waveform, sample_rate_hz), transcript)

    def audio_tensors(self) -> dict[str, np.ndarray]:
        """The recording alone, without its transcript."""
        return {
            "reference_wav": self.waveform[np.newaxis],
            "reference_wav_len": np.array([[len(self.waveform)]], dtype=np.int32),
        }

    def tensors(self) -> dict[str, np.ndarray]:
        transcript = {"reference_text": text_tensor(self.transcript)} if self.transcript else {}
        return self.audio_tensors() | transcript


@dataclass(frozen=True, eq=False)
class TokenVoice:
    """A voice as the model's own tokens: a few hundred bytes, made once, kept in a voice file.

    Attributes:
        global_tokens: int32 [32], the timbre.
        semantic_tokens: int32 [m], 50 per second, the recording's speech; None: the timbre alone.
        transcript: what semantic_tokens say. Both are given, or neither.
    """

    global_tokens: np.ndarray
    semantic_tokens: np.ndarray | None = None
    transcript: str | None = None

    def __post_init__(self) -> None:
        if (self.semantic_tokens is None) == bool(self.transcript):
            raise ValueError("a voice has semantic tokens and their transcript, or neither")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Reads a voice file.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is not a voice file.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(fields, dict) or fields.get("format") != VOICE_FILE_FORMAT:
                raise ValueError(f'it does not say "format": "{VOICE_FILE_FORMAT}"')
            transcript = fields.get("reference_text")
            if not isinstance(transcript, str | None):
                raise ValueError("reference_text must be a text")
            semantic_tokens = fields.get("semantic_tokens")
            return cls(
                _token_array("global_tokens", fields.get("global_tokens")),
                None if semantic_tokens is None else _token_array("semantic_tokens", semantic_tokens),
                transcript,
            )
        except ValueError as error:  # JSON's and UTF-8's errors are ValueErrors too
            raise ValueError(f"{path} is not a voice file: {error}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a voice file: for load(), for `tritone say --voice`, or for a server to store."""
        fields: dict[str, Any] = {"format": VOICE_FILE_FORMAT, "global_tokens": self.global_tokens.tolist()}
        if self.semantic_tokens is not None:
            fields |= {"semantic_tokens": self.semantic_tokens.tolist(), "reference_text": self.transcript}
        Path(path).write_text(json.dumps(fields, ensure_ascii=False) + "\n", encoding="utf-8")

    def tensors(self) -> dict[str, np.ndarray]:
        tensors = {"global_tokens": self.global_tokens[np.newaxis]}
        if self.semantic_tokens is not None and self.transcript:
            tensors["semantic_tokens"] = self.semantic_tokens[np.newaxis]
            tensors["reference_text"] = text_tensor(self.transcript)
        return tensors


@dataclass(frozen=True)
class StoredVoice:
    """A voice file that the server keeps, by its name (the file's name without `.json`)."""

    name: str

    def tensors(self) -> dict[str, np.ndarray]:
        return {"voice": text_tensor(self.name)}


@dataclass(frozen=True)
class ControlledVoice:
    """A voice that the model makes up, another one for every seed.

    Attributes:
        pitch_value: the pitch in mel, 0..1000, instead of the model's choice.
        speed_value: syllables per second, 0..10, instead of the model's choice.
    """

    gender: Gender
    pitch: Level = "moderate"
    speed: Level = "moderate"
    pitch_value: int | None = None
    speed_value: int | None = None

    def tensors(self) -> dict[str, np.ndarray]:
        labels = {"gender": self.gender, "pitch": self.pitch, "speed": self.speed}
        values = {"pitch_value": self.pitch_value, "speed_value": self.speed_value}
        return {name: text_tensor(label) for name, label in labels.items()} | {
            name: number_tensor(name, value, np.int32) for name, value in values.items() if value is not None
        }


def _token_array(name: str, tokens: object) -> np.ndarray:
    """A JSON value as int32 tokens. How many and how large they may be is the server's to check."""
    largest = np.iinfo(np.int32).max
    if not isinstance(tokens, list) or not all(type(token) is int and 0 <= token <= largest for token in tokens):
        raise ValueError(f"{name} must be a list of token numbers")
    return np.array(tokens, dtype=np.int32)
