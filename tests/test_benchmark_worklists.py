"""Work lists: what is read from each source, and that what is wrong is named by file, line and field."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tritone_client import ControlledVoice, ReferenceVoice, StoredVoice, TokenVoice

from benchmark import worklists
from benchmark.worklists import BUILTIN_LIST, Utterance, WorklistError, load_worklist
from demo.lines import DEMO_SENTENCES
from tests.recognizer import Recognizer

TRANSCRIPT = "what it says"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for lists, with two recordings and a voice file."""
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", np.full(16000, 0.25), 16000)
    soundfile.write(tmp_path / "wavs" / "b.wav", np.zeros((48000, 2)), 48000)
    TokenVoice(np.arange(32, dtype=np.int32)).save(tmp_path / "ann.json")
    return tmp_path


def write_jsonl(folder: Path, *lines: dict[str, object] | str) -> str:
    path = folder / "list.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def write_lst(folder: Path, content: str) -> str:
    path = folder / "meta.lst"
    path.write_text(content)
    return str(path)


def reference(utterance: Utterance) -> ReferenceVoice:
    assert isinstance(utterance.voice, ReferenceVoice)
    return utterance.voice


def complaint(source: str) -> str:
    with pytest.raises(WorklistError) as raised:
        load_worklist(source)
    return str(raised.value)


# ---- JSONL ----


def test_each_kind_of_voice_is_read(folder: Path) -> None:
    source = write_jsonl(
        folder,
        {"id": "1", "text": "one", "reference": "wavs/a.wav", "transcript": TRANSCRIPT},
        {"id": "2", "text": "two", "reference": "wavs/b.wav"},
        {"id": "3", "text": "three", "voice": "alice"},
        {"id": "4", "text": "four", "voice_file": "ann.json"},
        {"id": "5", "text": "five", "gender": "male", "pitch": "low", "speed_value": 4},
    )
    utterances = load_worklist(source)
    assert [utterance.id for utterance in utterances] == ["1", "2", "3", "4", "5"]
    assert [utterance.text for utterance in utterances] == ["one", "two", "three", "four", "five"]
    assert [utterance.kind for utterance in utterances] == ["cloned", "timbre", "stored", "stored", "controlled"]
    cloned, timbre, *_ = map(reference, utterances[:2])
    assert cloned.transcript == TRANSCRIPT and np.allclose(cloned.waveform, 0.25)
    assert timbre.transcript is None and len(timbre.waveform) == 16000  # one second, resampled
    assert utterances[2].voice == StoredVoice("alice")
    assert isinstance(utterances[3].voice, TokenVoice)
    assert utterances[3].voice.global_tokens.tolist() == list(range(32))
    assert utterances[4].voice == ControlledVoice("male", pitch="low", speed_value=4)


def test_a_shared_recording_is_read_once(folder: Path) -> None:
    lines = [{"id": str(i), "text": "hello", "reference": "wavs/a.wav"} for i in range(3)]
    lines[2]["transcript"] = TRANSCRIPT
    first, *others = map(reference, load_worklist(write_jsonl(folder, *lines)))
    assert all(other.waveform is first.waveform for other in others)


def test_blank_lines_and_windows_line_ends_do_not_matter_but_count(folder: Path) -> None:
    path = folder / "list.jsonl"
    line = '{"id": "ID", "text": "今天\u2028好", "gender": "female"}'
    content = "\r\n".join(["\ufeff", line.replace("ID", "1"), "", line.replace("ID", "2"), "{}"])
    path.write_bytes(content.encode())
    assert complaint(str(path)) == f"{path}, line 5, id: is missing"
    path.write_bytes(content.removesuffix("{}").encode())
    assert [utterance.text for utterance in load_worklist(str(path))] == ["今天\u2028好"] * 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", ": is not JSON: Expecting property name"),
        ("[1]", ": must be a JSON object with the fields of one utterance, got [1]"),
        ({"text": "x", "voice": "ann"}, ", id: is missing"),
        ({"id": "b", "voice": "ann"}, ", text: is missing"),
        ({"id": "b", "text": " ", "voice": "ann"}, ", text: is empty"),
        ({"id": "b", "text": 7, "voice": "ann"}, ", text: must be a text, got 7"),
        ({"id": "a", "text": "x", "voice": "ann"}, ": the id 'a' is taken already, see FOLDER/list.jsonl, line 1"),
        (
            {"id": "b", "text": "x", "refrence": "a.wav"},
            ": one of reference, voice, voice_file, gender must say whose voice it is; the fields are id, text, "
            "refrence",
        ),
        ({"id": "b", "text": "x", "voice": "ann", "gender": "male"}, ": one of reference, voice, voice_file, gender"),
        (
            {"id": "b", "text": "x", "voice": "ann", "transcript": "y"},
            ", transcript: means nothing here; a line with voice has only id, text, voice",
        ),
        (
            {"id": "b", "text": "x", "reference": "wavs/a.wav", "transcrpt": "y"},
            ", transcrpt: means nothing here; a line with reference has only id, text, reference, transcript",
        ),
        ({"id": "b", "text": "x", "gender": "man"}, ", gender: must be one of female, male, got 'man'"),
        ({"id": "b", "text": "x", "gender": "male", "speed": []}, ", speed: must be one of very_low, low, moderate"),
        (
            {"id": "b", "text": "x", "gender": "male", "pitch_value": 2.5},
            ", pitch_value: must be a whole number, got 2.5",
        ),
        (
            {"id": "b", "text": "x", "gender": "male", "speed_value": True},
            ", speed_value: must be a whole number, got T",
        ),
        ({"id": "b", "text": "x", "voice": ""}, ", voice: is empty"),
        ({"id": "b", "text": "x", "reference": "no.wav"}, ", reference: FOLDER/no.wav: No such file or directory"),
        ({"id": "b", "text": "x", "reference": "wavs"}, ", reference: FOLDER/wavs: Is a directory"),
        ({"id": "b", "text": "x", "reference": "ann.json"}, ", reference: FOLDER/ann.json is not an audio file"),
        (
            {"id": "b", "text": "x", "reference": "wavs/a.wav", "transcript": None},
            ", transcript: must be a text, got None",
        ),
        ({"id": "b", "text": "x", "voice_file": "no.json"}, ", voice_file: FOLDER/no.json: No such file or directory"),
        ({"id": "b", "text": "x", "voice_file": "list.jsonl"}, ", voice_file: FOLDER/list.jsonl is not a voice file"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(
    folder: Path, line: dict[str, object] | str, expected: str
) -> None:
    source = write_jsonl(folder, {"id": "a", "text": "hello", "gender": "female"}, line)
    assert complaint(source).startswith(f"{source}, line 2" + expected.replace("FOLDER", str(folder)))


def test_a_line_that_is_not_utf_8_is_named(folder: Path) -> None:
    path = folder / "list.jsonl"
    path.write_bytes(b"\n\xff\n")
    assert complaint(str(path)) == f"{path}, line 2: is not UTF-8"


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.lst"])
def test_an_empty_list_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n \n")
    assert complaint(str(path)) == f"{path} is empty: there is nothing to say"


@pytest.mark.parametrize("name", ["none.jsonl", "none.lst"])
def test_a_missing_list_is_refused(tmp_path: Path, name: str) -> None:
    assert complaint(str(tmp_path / name)) == f"{tmp_path / name}: No such file or directory"


@pytest.mark.parametrize("source", ["bultin", "list.json", ""])
def test_what_is_no_list_is_refused_with_the_sources(source: str) -> None:
    assert complaint(source) == (
        f"{source!r} is no work list: give builtin, demo, FILE.jsonl, FILE.lst or hf:OWNER/NAME:SPLIT"
    )


# ---- seed-tts-eval ----


def test_a_seed_tts_eval_list_is_read(folder: Path) -> None:
    source = write_lst(
        folder,
        "zh-1|在此奉劝大家。|wavs/a.wav|简单地说。\n"
        "en-1|What it says.|wavs/b.wav|What to say.|wavs/never-read.wav\n"
        "en-2||wavs/a.wav|Again.\n",
    )
    utterances = load_worklist(source)
    assert [(u.id, u.text, u.kind, reference(u).transcript) for u in utterances] == [
        ("zh-1", "简单地说。", "cloned", "在此奉劝大家。"),
        ("en-1", "What to say.", "cloned", "What it says."),
        ("en-2", "Again.", "timbre", None),
    ]
    assert reference(utterances[0]).waveform is reference(utterances[2]).waveform


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x|y|wavs/a.wav", "1: must be utt|prompt_text|prompt_wav|text|wav, the last optional, got x|y|wavs/a.wav"),
        ("x|y|wavs/a.wav|z|w|v", "1: must be utt|prompt_text|prompt_wav|text|wav, the last optional"),
        ("x|y|wavs/c.wav|z", "1, prompt_wav: FOLDER/wavs/c.wav: No such file or directory"),
        ("x|y||z", "1, prompt_wav: is empty"),
        ("|y|wavs/a.wav|z", "1, utt: is empty"),
        ("x|y|wavs/a.wav|", "1, text: is empty"),
        ("x|y|wavs/a.wav|z\nx|y|wavs/a.wav|z", "2: the id 'x' is taken already, see FOLDER/meta.lst, line 1"),
    ],
)
def test_a_wrong_line_of_a_seed_tts_eval_list_is_named(folder: Path, content: str, expected: str) -> None:
    source = write_lst(folder, content)
    assert complaint(source).startswith(f"{source}, line " + expected.replace("FOLDER", str(folder)))


# ---- Hugging Face ----


def dataset_row(folder: Path, **changes: object) -> worklists._Line:
    """A row as the library `datasets` gives it when it leaves audio as it is."""
    audio = {"bytes": (folder / "wavs" / "b.wav").read_bytes(), "path": "b.wav"}
    row = {"id": "1", "prompt_text": TRANSCRIPT, "prompt_audio": audio, "target_text": "hello"}
    return worklists._Line("hf:owner/name:split, row 1", row | changes)


def test_a_row_of_a_data_set_becomes_an_utterance(folder: Path) -> None:
    utterance = worklists._row_utterance(dataset_row(folder))
    assert (utterance.id, utterance.text, utterance.kind) == ("1", "hello", "cloned")
    voice = reference(utterance)
    assert voice.transcript == TRANSCRIPT
    assert voice.waveform.shape == (16000,) and voice.waveform.dtype == np.float32


def test_a_row_may_name_its_audio_file(folder: Path) -> None:
    audio = {"bytes": None, "path": str(folder / "wavs" / "a.wav")}
    utterance = worklists._row_utterance(dataset_row(folder, prompt_audio=audio, prompt_text=""))
    assert utterance.kind == "timbre"
    assert np.allclose(reference(utterance).waveform, 0.25)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": ""}, "id: is empty"),
        ({"target_text": None}, "target_text: must be a text"),
        ({"prompt_audio": None}, "prompt_audio: must be an audio file, got None"),
        ({"prompt_audio": {"bytes": b"RIFF", "path": None}}, "prompt_audio: is not an audio file that can be read"),
    ],
)
def test_a_wrong_row_is_named(folder: Path, changes: dict[str, object], expected: str) -> None:
    with pytest.raises(WorklistError, match=f"hf:owner/name:split, row 1, {expected}"):
        worklists._row_utterance(dataset_row(folder, **changes))


@pytest.mark.parametrize("source", ["hf:owner/name", "hf:", "hf:owner/name:"])
def test_a_data_set_needs_a_name_and_a_split(source: str) -> None:
    assert complaint(source) == f"{source!r} does not name a data set and its split, as hf:OWNER/NAME:SPLIT"


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails, installed or not
    source = "hf:yuekai/seed_tts:wenetspeech4tts"
    assert complaint(source).startswith(f"{source} needs optional libraries, pip install datasets")


def test_a_data_set_is_loaded_by_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="optional, and PyPI's newest pyarrow does not work with NumPy 1")
    monkeypatch.chdir(folder)  # a folder takes precedence over a data set of that name on the hub
    rows = [dict(dataset_row(folder, id=str(i), more=i).fields) for i in range(2)]
    Path("owner/name").mkdir(parents=True)
    dataset = datasets.Dataset.from_list(rows).cast_column("prompt_audio", datasets.Audio())
    dataset.to_parquet("owner/name/train.parquet")
    utterances = load_worklist("hf:owner/name:train")
    assert [utterance.id for utterance in utterances] == ["0", "1"]
    assert all(len(reference(utterance).waveform) == 16000 for utterance in utterances)
    assert complaint("hf:owner/name:test").startswith("hf:owner/name:test cannot be loaded")


# ---- what the repository brings ----


def test_the_builtin_list_has_every_language_length_and_kind() -> None:
    utterances = load_worklist("builtin")
    assert Counter(tuple(utterance.id.split("-")) for utterance in utterances) == Counter(
        [
            *((language, length, kind) for language in ("en", "zh", "mixed") for length in ("short", "long")
              for kind in ("cloned", "timbre")),
            *(("en", "short", "controlled"), ("en", "long", "controlled")),
            *(("zh", "long", "controlled"), ("mixed", "short", "controlled")),
        ]
    )  # fmt: skip
    for utterance in utterances:
        language, length, kind = utterance.id.split("-")
        assert utterance.kind == kind
        assert bool(re.search("[a-z]", utterance.text)) == (language != "zh")
        assert bool(re.search("[\u4e00-\u9fff]", utterance.text)) == (language != "en")
        num_characters = len(utterance.text)
        assert num_characters <= 45 if length == "short" else num_characters >= 50


def test_the_builtin_references_are_small_and_of_a_usual_length() -> None:
    references = {
        id(u.voice.waveform): u.voice for u in load_worklist("builtin") if isinstance(u.voice, ReferenceVoice)
    }
    assert len(references) == 4
    for voice in references.values():
        assert 3 < len(voice.waveform) / 16000 < 6
        assert 0.3 < np.abs(voice.waveform).max() <= 1
    assert sum(path.stat().st_size for path in BUILTIN_LIST.parent.glob("*.flac")) < 400_000


def test_the_english_builtin_references_say_their_transcripts() -> None:
    spoken = {
        re.sub("[^a-z ]", "", voice.transcript.lower()): voice.waveform
        for voice in (utterance.voice for utterance in load_worklist("builtin"))
        if isinstance(voice, ReferenceVoice) and voice.transcript and voice.transcript.isascii()
    }
    assert len(spoken) == 2
    recognizer = Recognizer([*spoken, *DEMO_SENTENCES])
    for transcript, waveform in spoken.items():
        assert recognizer.choose(waveform) == transcript


def test_the_demo_list_has_all_the_demo_sentences_in_all_its_voices() -> None:
    utterances = load_worklist("demo")
    assert [utterance.text for utterance in utterances] == list(DEMO_SENTENCES)
    assert Counter(utterance.kind for utterance in utterances) == {"cloned": 10, "timbre": 10, "controlled": 30}
    assert len({id(u.voice) for u in utterances}) == 5
