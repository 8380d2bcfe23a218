import json
from pathlib import Path

import pytest

from tritone.errors import InvalidInput
from tritone.voices import VoiceLibrary

ALICE = {"format": "tritone-voice/1", "global_tokens": list(range(32))}


def store(directory: Path, name: str, content: object) -> VoiceLibrary:
    (directory / f"{name}.json").write_text(json.dumps(content))
    return VoiceLibrary(directory)


def test_a_stored_voice_is_read_back(tmp_path: Path) -> None:
    voice = store(tmp_path, "alice", {**ALICE, "semantic_tokens": [1, 2], "reference_text": "hi"}).load("alice")
    assert voice.global_tokens.tolist() == list(range(32))
    assert voice.semantic_tokens is not None and voice.semantic_tokens.tolist() == [1, 2]
    assert voice.transcript == "hi"


def test_an_unknown_voice_is_refused_with_the_names_of_those_stored(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'bob' is not stored on this server; stored are: alice"):
        store(tmp_path, "alice", ALICE).load("bob")


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "voices"
    inner.mkdir()
    store(tmp_path, "secret", ALICE)
    with pytest.raises(InvalidInput, match="not stored"):
        VoiceLibrary(inner).load("../secret")


def test_a_missing_folder_has_no_voices(tmp_path: Path) -> None:
    assert VoiceLibrary(tmp_path / "none").names() == []


@pytest.mark.parametrize(
    "content",
    [
        {"format": "other/1", "global_tokens": []},
        {**ALICE, "semantic_tokens": [1]},
        {"format": "tritone-voice/1"},
        {**ALICE, "global_tokens": ["a"]},
        [],
    ],
)
def test_a_damaged_voice_file_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InvalidInput, match="its file cannot be used"):
        store(tmp_path, "alice", content).load("alice")
