"""What the demonstration says: a talk between two made-up voices, a sweep of pitch and speed, a recording cloned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from tritone_client import ControlledVoice, ReferenceVoice, Voice
from tritone_client.voices import Level

from demo.lines import REFERENCE_TRANSCRIPT, REFERENCE_WAV

LEVELS: tuple[Level, ...] = get_args(Level)  # from very low to very high


@dataclass(frozen=True)
class Line:
    """One thing to say.

    Attributes:
        name: of its wav file; no two lines have the same.
        voice: or the name of an earlier line, whose voice goes on.
        label: what stands under the text in the picture.
    """

    name: str
    text: str
    voice: Voice | str
    label: str
    is_streamed: bool = False


@dataclass(frozen=True)
class Scene:
    """Lines that are heard one after another; `recording` is heard before them."""

    title: str
    lines: Sequence[Line]
    recording: ReferenceVoice | None = None


def scenes() -> tuple[Scene, ...]:
    """All made of words that the demo voice knows."""
    return (
        Scene("Two voices, made up once and kept", _talk()),
        Scene("One sentence at five pitches and three speeds", _sweep()),
        Scene("A recording, and its clones", _clones(), ReferenceVoice.from_file(REFERENCE_WAV, REFERENCE_TRANSCRIPT)),
    )


def _talk() -> list[Line]:
    return [
        Line("anna-1", "good morning my friend", ControlledVoice("female", pitch="high"), "Anna: female, high"),
        Line("ben-1", "how are you today", ControlledVoice("male"), "Ben: male"),
        Line("anna-2", "today is a good day", "anna-1", "Anna"),
        Line("ben-2", "where is the train", "ben-1", "Ben"),
        Line("anna-3", "turn right here", "anna-1", "Anna, streamed", is_streamed=True),
        Line("ben-3", "thank you very much", "ben-1", "Ben, streamed", is_streamed=True),
    ]


def _sweep() -> list[Line]:
    text = "this computer can speak"
    pitched = [
        Line(f"pitch-{level}", text, ControlledVoice("female", pitch=level), f"pitch {level.replace('_', ' ')}")
        for level in LEVELS
    ]
    paced = [
        Line(f"speed-{value}", text, ControlledVoice("female", speed_value=value), f"{value} syllables/s")
        for value in (2, 4, 6)
    ]
    return pitched + paced


def _clones() -> list[Line]:
    with_transcript = ReferenceVoice.from_file(REFERENCE_WAV, REFERENCE_TRANSCRIPT)
    timbre_alone = ReferenceVoice.from_file(REFERENCE_WAV)
    return [
        Line("cloned", "the dog is inside the house", timbre_alone, "cloned: timbre alone"),
        Line("cloned-with-transcript", "the student can hear the teacher", with_transcript, "cloned with transcript"),
    ]
