"""The recogniser itself, on speech of espeak-ng's own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo.lines import DEMO_SENTENCES
from tests.recognizer import SAMPLE_RATE_HZ, Recognizer

DATA_DIR = Path(__file__).parent / "data"
RECORDED = ("where is the train", "the new engine is very fast", "please open the door")


def recording(sentence: str) -> np.ndarray:
    waveform, sample_rate_hz = soundfile.read(DATA_DIR / f"{sentence.replace(' ', '_')}.wav", dtype="float32")
    assert sample_rate_hz == SAMPLE_RATE_HZ
    return waveform


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(DEMO_SENTENCES)


@pytest.mark.parametrize("sentence", RECORDED)
def test_chooses_the_sentence_that_is_said(recognizer: Recognizer, sentence: str) -> None:
    assert recognizer.choose(recording(sentence)) == sentence


def test_tells_sentences_apart_that_differ_in_one_word() -> None:
    alike = ("the new engine is very slow", "the new engine is very fast", "the old engine is very fast")
    assert Recognizer(alike).choose(recording("the new engine is very fast")) == "the new engine is very fast"


def test_speech_cut_to_its_first_word_is_not_taken_for_the_sentence(recognizer: Recognizer) -> None:
    sentence = "the new engine is very fast"
    assert recognizer.choose(recording(sentence)[: SAMPLE_RATE_HZ // 4]) != sentence


def test_speech_played_backwards_is_not_taken_for_the_sentence(recognizer: Recognizer) -> None:
    for sentence in RECORDED:
        assert recognizer.choose(recording(sentence)[::-1]) != sentence


def test_judges_each_recording_alone(recognizer: Recognizer) -> None:
    alone = [Recognizer(DEMO_SENTENCES).choose(recording(sentence)[::-1]) for sentence in RECORDED]
    assert [recognizer.choose(recording(sentence)[::-1]) for sentence in RECORDED] == alone


def test_a_word_that_the_dictionary_lacks_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sparktts"):
        Recognizer(["where is sparktts"])
