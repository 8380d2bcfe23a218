"""Work lists: what a load benchmark says, and in whose voice.

A list is read and checked as a whole before anything is sent, so that no load starts that its own list would spoil.
The formats of the files are described in benchmark/data/README.md.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import soundfile
from tritone_client import ControlledVoice, ReferenceVoice, StoredVoice, TokenVoice, Voice
from tritone_client.audio import read_server_audio, to_server_audio
from tritone_client.voices import Gender, Level

from demo.lines import DEMO_SENTENCES, REFERENCE_TRANSCRIPT, REFERENCE_WAV

BUILTIN_LIST = Path(__file__).parent / "data" / "builtin.jsonl"
SOURCES = "builtin, demo, FILE.jsonl, FILE.lst or hf:OWNER/NAME:SPLIT"

# The fields of a line that choose a voice, each with those that mean something only beside it.
VOICE_FIELDS = {
    "reference": ("transcript",),
    "voice": (),
    "voice_file": (),
    "gender": ("pitch", "speed", "pitch_value", "speed_value"),
}
LST_COLUMNS = ("utt", "prompt_text", "prompt_wav", "text", "wav")  # the last, a recording of the text, may be absent
DATASET_COLUMNS = ["id", "prompt_text", "prompt_audio", "target_text"]
# From 26 on pyarrow needs NumPy 2, which the Python stub of Triton 24.10 does not work with.
HUB_LIBRARIES = 'pip install datasets "pyarrow<26"'

# How much a voice gives the server to do: a reference with a transcript is encoded twice and makes the prompt longer,
# one without is encoded once, a controlled voice is made up, a stored one is tokens already.
Kind = Literal["cloned", "timbre", "controlled", "stored"]
Content = TypeVar("Content")


class WorklistError(Exception):
    """A work list cannot be used: one sentence that names the file, the line and the field."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """One thing to say."""

    id: str
    text: str
    voice: Voice
    kind: Kind


def load_worklist(source: str) -> list[Utterance]:
    """Read a whole list, its audio included; an audio file that several lines of a file share is read once.

    Args:
        source: `builtin`, `demo` (what the demo voice says well), the path of a .jsonl or .lst file, or
            `hf:OWNER/NAME:SPLIT`, a data set of the Hugging Face hub with the columns of `yuekai/seed_tts`.

    Raises:
        WorklistError: the list, or a file that it names, is missing, empty or wrong, or an id occurs twice.
    """
    places: dict[str, str] = {}
    utterances = []
    for place, utterance in _entries(source):
        if utterance.id in places:
            raise WorklistError(f"{place}: the id {utterance.id!r} is taken already, see {places[utterance.id]}")
        places[utterance.id] = place
        utterances.append(utterance)
    if not utterances:
        raise WorklistError(f"{source} is empty: there is nothing to say")
    return utterances


def _entries(source: str) -> Iterator[tuple[str, Utterance]]:
    """Each utterance of a list, after the place where it stands."""
    if source == "demo":
        return _demo_entries()
    if source.startswith("hf:"):
        return _dataset_entries(source)
    path = BUILTIN_LIST if source == "builtin" else Path(source)
    if path.suffix == ".jsonl":
        return _jsonl_entries(path)
    if path.suffix == ".lst":
        return _lst_entries(path)
    raise WorklistError(f"{source!r} is no work list: give {SOURCES}")


@dataclass(frozen=True)
class _Line:
    """One line's fields, and its place: for the errors."""

    place: str
    fields: Mapping[str, object]

    def error(self, field: str, complaint: object) -> WorklistError:
        return WorklistError(f"{self.place}, {field}: {complaint}")

    def text(self, field: str) -> str:
        """A field that must be there and say something."""
        text = self.optional_text(field)
        if text is None:
            raise self.error(field, "is empty" if field in self.fields else "is missing")
        return text

    def optional_text(self, field: str) -> str | None:
        """A field that may be absent or empty, which is the same."""
        text = self.fields.get(field, "")
        if not isinstance(text, str):
            raise self.error(field, f"must be a text, got {text!r}")
        return text.strip() or None

    def label(self, field: str, labels: tuple[str, ...], default: str | None = None) -> Any:
        """A field that is one of `labels`."""
        label = self.fields.get(field, default)
        if label not in labels:
            raise self.error(field, f"must be one of {', '.join(labels)}, got {label!r}")
        return label

    def optional_integer(self, field: str) -> int | None:
        """A field that is a whole number where it is there; the range is the server's to check."""
        if field not in self.fields:
            return None
        number = self.fields[field]
        if type(number) is not int:
            raise self.error(field, f"must be a whole number, got {number!r}")
        return number

    def read(self, field: str, folder: Path, reader: Callable[[Path], Content]) -> Content:
        """What `reader` makes of the file that a field names, relative to `folder`."""
        path = folder / self.text(field)
        try:
            return reader(path)
        except OSError as error:
            raise self.error(field, f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise self.error(field, error) from error


def _jsonl_entries(path: Path) -> Iterator[tuple[str, Utterance]]:
    read_audio = cache(read_server_audio)
    for place, text in _text_lines(path):
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise WorklistError(f"{place}: is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise WorklistError(f"{place}: must be a JSON object with the fields of one utterance, got {text}")
        line = _Line(place, fields)
        yield place, Utterance(line.text("id"), line.text("text"), *_voice(line, path.parent, read_audio))


def _voice(line: _Line, folder: Path, read_audio: Callable[[Path], np.ndarray]) -> tuple[Voice, Kind]:
    named = [field for field in VOICE_FIELDS if field in line.fields]
    if len(named) != 1:
        raise WorklistError(
            f"{line.place}: one of {', '.join(VOICE_FIELDS)} must say whose voice it is; "
            f"the fields are {', '.join(line.fields)}"
        )
    (chosen,) = named
    allowed = ("id", "text", chosen, *VOICE_FIELDS[chosen])
    for field in line.fields:
        if field not in allowed:
            raise line.error(field, f"means nothing here; a line with {chosen} has only {', '.join(allowed)}")
    if chosen == "reference":
        return _reference_voice(line.read(chosen, folder, read_audio), line.optional_text("transcript"))
    if chosen == "voice":
        return StoredVoice(line.text(chosen)), "stored"
    if chosen == "voice_file":
        return line.read(chosen, folder, TokenVoice.load), "stored"
    voice = ControlledVoice(
        gender=line.label("gender", get_args(Gender)),
        pitch=line.label("pitch", get_args(Level), ControlledVoice.pitch),
        speed=line.label("speed", get_args(Level), ControlledVoice.speed),
        pitch_value=line.optional_integer("pitch_value"),
        speed_value=line.optional_integer("speed_value"),
    )
    return voice, "controlled"


def _reference_voice(waveform: np.ndarray, transcript: str | None) -> tuple[Voice, Kind]:
    return ReferenceVoice(waveform, transcript), "cloned" if transcript else "timbre"


def _lst_entries(path: Path) -> Iterator[tuple[str, Utterance]]:
    """The lines of seed-tts-eval's lists: `utt|prompt_text|prompt_wav|text`, perhaps with `|wav`."""
    read_audio = cache(read_server_audio)
    for place, text in _text_lines(path):
        columns = text.split("|")
        if len(columns) not in (len(LST_COLUMNS) - 1, len(LST_COLUMNS)):
            raise WorklistError(f"{place}: must be {'|'.join(LST_COLUMNS)}, the last optional, got {text}")
        line = _Line(place, dict(zip(LST_COLUMNS, columns, strict=False)))
        waveform = line.read("prompt_wav", path.parent, read_audio)
        voice, kind = _reference_voice(waveform, line.optional_text("prompt_text"))
        yield place, Utterance(line.text("utt"), line.text("text"), voice, kind)


def _text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, after its place."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorklistError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise WorklistError(f"{place}: is not UTF-8") from error
        if text:
            yield place, text


def _dataset_entries(source: str) -> Iterator[tuple[str, Utterance]]:
    name, _, split = source.removeprefix("hf:").rpartition(":")
    if not name or not split:
        raise WorklistError(f"{source!r} does not name a data set and its split, as hf:OWNER/NAME:SPLIT")
    try:
        import datasets

        rows = datasets.load_dataset(name, split=split).select_columns(DATASET_COLUMNS)
        # Decoded here: the library itself would need PyTorch and FFmpeg for it.
        rows = rows.cast_column("prompt_audio", datasets.Audio(decode=False))
    except ImportError as error:
        raise WorklistError(f"{source} needs optional libraries, {HUB_LIBRARIES}: {error}") from error
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise WorklistError(
            f"{source} cannot be loaded (is the hub within reach, and are you logged in where it asks for it?): {error}"
        ) from error
    for number, row in enumerate(rows, start=1):
        line = _Line(f"{source}, row {number}", row)
        yield line.place, _row_utterance(line)


def _row_utterance(row: _Line) -> Utterance:
    """A data set's row, under the names that Spark-TTS's published Triton client reads."""
    voice, kind = _reference_voice(_row_audio(row, "prompt_audio"), row.optional_text("prompt_text"))
    return Utterance(row.text("id"), row.text("target_text"), voice, kind)


def _row_audio(row: _Line, field: str) -> np.ndarray:
    """A row's audio file, within the row or beside the data set, as float32 [n] at 16 kHz."""
    source: BytesIO | str
    match row.fields.get(field):
        case {"bytes": bytes(content)}:
            source = BytesIO(content)
        case {"path": str(path)}:
            source = path
        case value:
            raise row.error(field, f"must be an audio file, got {value!r}")
    try:
        return to_server_audio(*soundfile.read(source, dtype="float32"))
    except soundfile.LibsndfileError as error:
        raise row.error(field, f"is not an audio file that can be read: {error.error_string}") from error


def _demo_entries() -> Iterator[tuple[str, Utterance]]:
    """The demo voice's sentences, in turn in each of the voices that the demo has."""
    recording = read_server_audio(REFERENCE_WAV)
    voices: list[tuple[Voice, Kind]] = [
        _reference_voice(recording, REFERENCE_TRANSCRIPT),
        _reference_voice(recording, None),
        (ControlledVoice("female", pitch="high"), "controlled"),
        (ControlledVoice("male", speed="low"), "controlled"),
        (ControlledVoice("female", pitch_value=240), "controlled"),
    ]
    for sentence, (voice, kind) in zip(DEMO_SENTENCES, cycle(voices), strict=False):
        yield "demo", Utterance(sentence.replace(" ", "-"), sentence, voice, kind)
