"""The ids of Spark-TTS's special tokens, looked up in the checkpoint's own tokenizer."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tritone.errors import InvalidInput

NUM_GLOBAL_TOKENS = 32  # one voice; a constant of the prompt format, not of a checkpoint's size


@dataclass(frozen=True)
class SpeechTokens:
    """Ids of the tokens that Spark-TTS speaks in; each range holds the ids of one kind in the order of its values."""

    im_end: int  # ends the speech
    task_tts: int
    task_controllable_tts: int
    start_content: int
    end_content: int
    start_style_label: int
    end_style_label: int
    start_acoustic: int
    end_acoustic: int
    start_global: int
    end_global: int
    start_semantic: int
    genders: range
    pitch_labels: range
    speed_labels: range
    pitch_values: range
    speed_values: range
    global_tokens: range
    semantic_tokens: range

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "SpeechTokens":
        """Look every id up by its name.

        Raises:
            ValueError: a token is missing, or the ids of one kind are not consecutive.
        """
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)

        def single(name: str) -> int:
            token = f"<|{name}|>"
            if token not in vocabulary:
                raise ValueError(f"the tokenizer has no token {token}: it is not Spark-TTS's")
            return vocabulary[token]

        def kind(name: str) -> range:
            pattern = re.compile(rf"<\|{name}_(\d+)\|>")
            id_by_value = {int(m[1]): i for token, i in vocabulary.items() if (m := pattern.fullmatch(token))}
            start = single(f"{name}_0")
            ids = range(start, start + len(id_by_value))
            if [id_by_value.get(value) for value in range(len(id_by_value))] != list(ids):
                raise ValueError(f"the tokenizer's ids of <|{name}_...|> are not consecutive")
            return ids

        return cls(
            im_end=single("im_end"),
            task_tts=single("task_tts"),
            task_controllable_tts=single("task_controllable_tts"),
            start_content=single("start_content"),
            end_content=single("end_content"),
            start_style_label=single("start_style_label"),
            end_style_label=single("end_style_label"),
            start_acoustic=single("start_acoustic_token"),
            end_acoustic=single("end_acoustic_token"),
            start_global=single("start_global_token"),
            end_global=single("end_global_token"),
            start_semantic=single("start_semantic_token"),
            genders=kind("gender"),
            pitch_labels=kind("pitch_label"),
            speed_labels=kind("speed_label"),
            pitch_values=kind("pitch_value"),
            speed_values=kind("speed_value"),
            global_tokens=kind("bicodec_global"),
            semantic_tokens=kind("bicodec_semantic"),
        )

    @classmethod
    def from_file(cls, tokenizer_json: Path) -> "SpeechTokens":
        """As `from_tokenizer`, read from a `tokenizer.json`."""
        return cls.from_tokenizer(Tokenizer.from_file(str(tokenizer_json)))


def check_codes(field: str, values: np.ndarray, num_codes: int) -> None:
    """Refuse token values that the codec does not have.

    Raises:
        InvalidInput: there is no value, or one is not in 0 .. num_codes - 1.
    """
    if values.size == 0:
        raise InvalidInput(f"{field} is empty")
    wrong = values[(values < 0) | (values >= num_codes)]
    if wrong.size:
        raise InvalidInput(f"{field} must be values from 0 to {num_codes - 1}, got {wrong[0]}")
