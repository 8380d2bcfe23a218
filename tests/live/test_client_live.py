"""The client against the real tritonserver with the demo voice: what a scripted server cannot show."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tritone_client import (
    AsyncTritone,
    ControlledVoice,
    ReferenceVoice,
    Speech,
    StoredVoice,
    Tritone,
    TritoneError,
)
from tritone_client.cli import main

from demo.lines import REFERENCE_TRANSCRIPT, REFERENCE_WAV

LINE = "the weather is nice"
VOICE = ControlledVoice("female", pitch="high")
REFERENCE = Path(__file__).parents[1] / "golden" / "en_f3.wav"


@pytest.fixture
def tritone(server):
    with Tritone(server.grpc_url, timeout_s=120) as client:
        yield client


def assert_speech(speech: Speech) -> None:
    """Audio that a person could hear: of some length, finite, within -1..1 and not silent."""
    assert 0.3 < speech.duration_s < 20
    assert np.isfinite(speech.waveform).all()
    assert 0.01 < np.abs(speech.waveform).max() <= 1


def test_whole_and_stream_speak_the_same_tokens_for_the_same_seed(tritone):
    whole = tritone.synthesize(LINE, voice=VOICE, seed=3, keep_tokens=True)
    pieces = list(tritone.stream(LINE, voice=VOICE, seed=3, keep_tokens=True))
    streamed = Speech.join(pieces)
    assert_speech(whole)
    assert len(pieces) > 1
    np.testing.assert_array_equal(streamed.semantic_tokens, whole.semantic_tokens)
    np.testing.assert_array_equal(streamed.global_tokens, whole.global_tokens)
    assert len(streamed.waveform) == len(whole.waveform) == 320 * len(whole.semantic_tokens)


def test_made_voice_speaks_as_its_reference_does(tritone):
    reference = ReferenceVoice.from_file(REFERENCE)
    voice = tritone.make_voice(reference)
    from_reference = tritone.synthesize(LINE, voice=reference, seed=3, keep_tokens=True)
    from_tokens = tritone.synthesize(LINE, voice=voice, seed=3, keep_tokens=True)
    assert_speech(from_reference)
    np.testing.assert_array_equal(from_reference.global_tokens, voice.global_tokens)
    np.testing.assert_array_equal(from_reference.semantic_tokens, from_tokens.semantic_tokens)


def test_voice_made_with_a_transcript_carries_its_speech(tritone):
    reference = ReferenceVoice.from_file(REFERENCE_WAV, REFERENCE_TRANSCRIPT)
    voice = tritone.make_voice(reference)
    assert len(voice.semantic_tokens) == pytest.approx(len(reference.waveform) / 320, abs=2)
    assert_speech(tritone.synthesize(LINE, voice=voice, seed=3))


def test_made_up_voice_that_is_kept_speaks_again(tritone):
    voice = tritone.synthesize(LINE, voice=VOICE, seed=3, keep_tokens=True).voice()
    again = tritone.synthesize("good morning", voice=voice, seed=3, keep_tokens=True)
    assert_speech(again)
    np.testing.assert_array_equal(again.global_tokens, voice.global_tokens)


@pytest.mark.parametrize(
    ("text", "voice", "field"), [("", VOICE, "target_text"), (LINE, StoredVoice("nobody"), "voice")]
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_refused_request_names_the_field_and_the_next_is_served(tritone, text, voice, field, streamed):
    with pytest.raises(TritoneError, match=field) as caught:
        if streamed:
            list(tritone.stream(text, voice=voice))
        else:
            tritone.synthesize(text, voice=voice)
    assert caught.value.status == "INVALID_ARGUMENT"
    assert_speech(tritone.synthesize(LINE, voice=VOICE, seed=3))


def test_server_serves_on_after_a_stream_is_left(tritone):
    pieces = tritone.stream(LINE, voice=VOICE, seed=3)
    next(pieces)
    pieces.close()
    assert_speech(tritone.synthesize(LINE, voice=VOICE, seed=3))


def test_one_async_client_streams_side_by_side(server):
    async def stream(client: AsyncTritone, seed: int) -> Speech:
        return Speech.join([piece async for piece in client.stream(LINE, voice=VOICE, seed=seed)])

    async def stream_side_by_side() -> list[Speech]:
        async with AsyncTritone(server.grpc_url, timeout_s=120) as client:
            return await asyncio.gather(*(stream(client, seed) for seed in range(4)))

    for speech in asyncio.run(stream_side_by_side()):
        assert_speech(speech)


def test_command_line_makes_a_voice_and_speaks_with_it(server, tmp_path):
    voice_file, wav = tmp_path / "ann.json", tmp_path / "out.wav"
    assert main(["voice", "make", str(REFERENCE), "-o", str(voice_file), "--url", server.grpc_url]) == 0
    said = main(["say", LINE, "--voice", str(voice_file), "--stream", "-o", str(wav), "--url", server.grpc_url])
    assert said == 0
    assert soundfile.info(wav).duration > 0.3


def test_voice_stored_on_the_server_speaks_by_its_name(server, voices_dir, tritone):
    voice = tritone.make_voice(ReferenceVoice.from_file(REFERENCE))
    voice.save(voices_dir / "ann.json")
    by_name = tritone.synthesize(LINE, voice=StoredVoice("ann"), seed=3)
    np.testing.assert_array_equal(by_name.waveform, tritone.synthesize(LINE, voice=voice, seed=3).waveform)


def test_seed_repeats_its_samples_on_an_idle_server_and_another_one_differs(tritone):
    first, again, other = (tritone.synthesize(LINE, voice=VOICE, seed=seed).waveform for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
