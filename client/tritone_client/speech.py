"""What comes back: speech, whole or a piece of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from typing import Self

import numpy as np

from tritone_client.audio import SAMPLE_RATE_HZ, AudioFile, check_writable_suffix
from tritone_client.voices import TokenVoice


@dataclass(frozen=True, eq=False)
class Speech:
    """A whole utterance, or one piece of a stream; pieces are played or joined end to end as they are.

    Attributes:
        waveform: float32 [n] within -1..1.
        global_tokens: int32 [32], the voice that spoke; None unless asked for with keep_tokens.
        semantic_tokens: int32 [m], 50 per second, what it spoke; None unless asked for with keep_tokens.
            In a stream the last piece carries the tokens of the whole.
        end_reason: why the speech ends where it does: "complete" (everything was said), "max_audio_s" (it was cut at
            the caller's or the server's limit) or "run_on" (the model did not end by itself, and the speech was cut
            where it stopped making sense). None in a stream's pieces before the last, and where the server is silent.
    """

    waveform: np.ndarray
    global_tokens: np.ndarray | None = None
    semantic_tokens: np.ndarray | None = None
    sample_rate_hz: int = SAMPLE_RATE_HZ
    end_reason: str | None = None

    @classmethod
    def join(cls, pieces: Iterable[Self]) -> Self:
        """The pieces of one stream as a whole utterance.

        Raises:
            ValueError: there is no piece.
        """
        pieces = list(pieces)
        if not pieces:
            raise ValueError("there are no pieces of speech to join")
        return replace(pieces[-1], waveform=np.concatenate([piece.waveform for piece in pieces]))

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / self.sample_rate_hz

    def save(self, path: str | PathLike[str]) -> None:
        """Writes an audio file in the format that its suffix names (.wav is 16 bit).

        Raises:
            OSError: the file cannot be written.
            ValueError: the suffix names no format that soundfile writes.
        """
        check_writable_suffix(path)
        with AudioFile(path, self.sample_rate_hz) as file:
            file.write(self.waveform)

    def voice(self, transcript: str | None = None) -> TokenVoice:
        """The voice that spoke, to speak with it again: this is how a made-up voice that pleases is kept.

        Args:
            transcript: the text that was spoken, to keep the manner of speaking and not the timbre alone.

        Raises:
            ValueError: the speech was made without keep_tokens=True.
        """
        if self.global_tokens is None:
            raise ValueError("the voice was not kept: synthesise with keep_tokens=True")
        return TokenVoice(self.global_tokens, None if transcript is None else self.semantic_tokens, transcript)
