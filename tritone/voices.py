"""Voices that are kept: as tokens, in JSON files that `tritone voice make` writes."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tritone.errors import InvalidInput

VOICES_DIR_VARIABLE = "VOICES_DIR"
VOICE_FORMAT = "tritone-voice/1"


@dataclass(frozen=True)
class TokenVoice:
    """A voice as the model sees it.

    Attributes:
        global_tokens: who speaks, INT32 [32].
        semantic_tokens: what the reference audio says, INT32 [m]; None to clone without a transcript.
        transcript: the reference audio's words; present exactly when `semantic_tokens` are.
    """

    global_tokens: np.ndarray
    semantic_tokens: np.ndarray | None = None
    transcript: str | None = None


class VoiceLibrary:
    """The voices stored on the server: `<name>.json` in one folder, read at each use so that new ones count at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """The names of all stored voices, sorted."""
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def load(self, name: str) -> TokenVoice:
        """The voice stored as `name`; the values of its tokens are not checked yet.

        Raises:
            InvalidInput: there is no such voice, or its file is not a voice.
        """
        known = self.names()
        if name not in known:  # a comparison with what is there, so a name can never lead out of the folder
            raise InvalidInput(f"voice {name!r} is not stored on this server; stored are: {', '.join(known) or 'none'}")
        try:
            content = json.loads((self._directory / f"{name}.json").read_text(encoding="utf-8"))
            if content["format"] != VOICE_FORMAT:
                raise ValueError(f"format {content['format']!r}, this server reads {VOICE_FORMAT!r}")
            semantic_tokens, transcript = content.get("semantic_tokens"), content.get("reference_text")
            if (semantic_tokens is None) != (transcript is None):
                raise ValueError("semantic_tokens and reference_text belong together")
            return TokenVoice(
                global_tokens=np.array(content["global_tokens"], np.int32),
                semantic_tokens=None if semantic_tokens is None else np.array(semantic_tokens, np.int32),
                transcript=transcript,
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise InvalidInput(f"voice {name!r} is stored here but its file cannot be used: {error}") from error
