"""Texts of several paragraphs, and more requests than a server takes, through the real server with the demo voice."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from tritone_client import ControlledVoice, Speech, Tritone, Unavailable

from demo.lines import DEMO_SENTENCES
from tritone.serve import TritonServer
from tritone.text import PARAGRAPH_PAUSE_S

VOICE = ControlledVoice("female", pitch="high")
PARAGRAPHS = ["the weather is nice. welcome to the world.", "this computer can speak.", "the new engine is very fast."]
TEXT = "\n".join(PARAGRAPHS)


@pytest.fixture
def tritone(server: TritonServer) -> Iterator[Tritone]:
    with Tritone(server.grpc_url, timeout_s=120) as client:
        yield client


def num_pauses(speech: Speech) -> int:
    """How many stretches of nothing but zeros are as long as the pause between two paragraphs."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], speech.waveform != 0, [1]])))
    return int(np.sum(np.diff(edges)[::2] >= PARAGRAPH_PAUSE_S * speech.sample_rate_hz))


def test_paragraphs_are_said_with_pauses(tritone: Tritone) -> None:
    speech = tritone.synthesize(TEXT, voice=VOICE, seed=3, keep_tokens=True)
    assert speech.end_reason == "complete"
    assert num_pauses(speech) == len(PARAGRAPHS) - 1
    pauses_s = PARAGRAPH_PAUSE_S * (len(PARAGRAPHS) - 1)
    assert speech.duration_s == pytest.approx(len(speech.semantic_tokens) / 50 + pauses_s)


def test_a_streamed_long_text_is_complete(tritone: Tritone) -> None:
    text = "\n".join(f"{line}." for line in DEMO_SENTENCES)
    speech = Speech.join(list(tritone.stream(text, voice=VOICE, seed=3)))
    assert speech.end_reason == "complete"
    assert num_pauses(speech) == len(DEMO_SENTENCES) - 1


def test_a_long_text_ends_at_the_requested_length(tritone: Tritone) -> None:
    speech = tritone.synthesize(TEXT, voice=VOICE, seed=3, max_audio_s=3.5, keep_tokens=True)
    assert speech.end_reason == "max_audio_s"
    assert speech.duration_s == 3.5
    assert len(speech.semantic_tokens) <= 3.5 * 50


def test_numbers_are_read_as_words_when_asked(tritone: Tritone) -> None:
    def tokens(text: str, normalize_text: bool) -> list[int]:
        speech = tritone.synthesize(text, voice=VOICE, seed=3, keep_tokens=True, normalize_text=normalize_text)
        return speech.semantic_tokens.tolist()

    assert tokens("the number is 7.", True) == tokens("the number is seven.", False)
    assert tokens("the number is 7.", False) != tokens("the number is seven.", False)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_more_requests_than_allowed_are_refused_at_once(tritone: Tritone, streamed: bool) -> None:
    num_allowed, num_more = 32, 4
    outcomes: list[str] = []

    def ask(number: int) -> None:
        try:
            if streamed:
                outcomes.append(str(list(tritone.stream(TEXT, voice=VOICE, seed=number))[-1].end_reason))
            else:
                outcomes.append(str(tritone.synthesize(TEXT, voice=VOICE, seed=number).end_reason))
        except Unavailable as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_allowed + num_more)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if "max_requests" in outcome and "try again in about" in outcome]
    spoken = [outcome for outcome in outcomes if outcome not in refused]
    assert len(outcomes) == num_allowed + num_more
    assert 1 <= len(refused) <= num_more  # a place may fall free in between
    assert set(spoken) <= {"complete", "run_on"}  # the demo voice runs on with some seeds
    assert spoken.count("complete") > len(spoken) / 2
    assert tritone.synthesize("the weather is nice", voice=VOICE, seed=3).end_reason == "complete"
