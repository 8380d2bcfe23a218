"""Spark-TTS's prompts as token ids: no separators, no chat template."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tritone.errors import InvalidInput
from tritone.spark_tts.tokens import SpeechTokens
from tritone.voices import TokenVoice


@dataclass(frozen=True)
class Style:
    """A controlled voice's labels, as values: gender 0 female, 1 male; pitch and speed 0 very_low .. 4 very_high."""

    gender: int
    pitch: int
    speed: int


class Prompts:
    """Builds the prompts of one checkpoint; they equal what the published code builds, id for id."""

    def __init__(self, tokenizer_json: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self.tokens = SpeechTokens.from_tokenizer(self._tokenizer)
        self._reserved_ids = frozenset(self._tokenizer.get_added_tokens_decoder())

    def clone(self, text: str, voice: TokenVoice) -> list[int]:
        """A prompt that ends where semantic tokens follow; with a transcript it continues the reference's own.

        Raises:
            InvalidInput: a text holds one of the tokenizer's reserved tokens.
        """
        t = self.tokens
        content = self._encode("target_text", text)
        if voice.transcript is not None:
            # one string, not two: the published prompt lets a merge cross the border between transcript and text
            self._encode("reference_text", voice.transcript)
            content = self._encode("target_text", voice.transcript + text)
        speaker = [t.global_tokens[value] for value in voice.global_tokens]
        said = [] if voice.semantic_tokens is None else [t.semantic_tokens[value] for value in voice.semantic_tokens]
        return [
            *(t.task_tts, t.start_content, *content, t.end_content),
            *(t.start_global, *speaker, t.end_global, t.start_semantic, *said),
        ]

    def controlled(self, text: str, style: Style) -> list[int]:
        """A prompt that ends where the pitch value follows.

        Raises:
            InvalidInput: the text holds one of the tokenizer's reserved tokens.
        """
        t = self.tokens
        labels = (t.genders[style.gender], t.pitch_labels[style.pitch], t.speed_labels[style.speed])
        return [
            *(t.task_controllable_tts, t.start_content, *self._encode("target_text", text), t.end_content),
            *(t.start_style_label, *labels, t.end_style_label, t.start_acoustic),
        ]

    def _encode(self, field: str, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        for token_id in ids:
            if token_id in self._reserved_ids:  # a caller's text must never act as a control token
                reserved = self._tokenizer.id_to_token(token_id)
                raise InvalidInput(f"{field} holds {reserved!r}, which the model reserves for itself: leave it out")
        return ids


def token_values(ids: list[int] | np.ndarray, kind: range) -> np.ndarray:
    """Codec values of token ids of one kind: INT32, same length, by subtraction."""
    return np.asarray(ids, np.int32) - np.int32(kind.start)
