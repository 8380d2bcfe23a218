"""The library: what is sent, what comes back, how it fails and how it is cancelled."""

import asyncio
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
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
    Tls,
    TokenVoice,
    Tritone,
    TritoneError,
    Unavailable,
)

WAIT_S = 30
VOICE = StoredVoice("ann")
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def tritone(fake_triton):
    with Tritone(fake_triton.url) as client:
        yield client


def unused_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


# What is sent


def test_text_is_sent_as_utf8_with_a_batch_axis(fake_triton, tritone):
    tritone.synthesize("你好, world", voice=VOICE)
    assert fake_triton.requests[-1].model_name == "spark_tts"
    assert fake_triton.inputs() == {"target_text": [["你好, world"]], "voice": [["ann"]]}


def test_options_that_are_not_given_are_not_sent(fake_triton, tritone):
    tritone.synthesize("hello", voice=ControlledVoice("male"))
    assert fake_triton.inputs().keys() == {"target_text", "gender", "pitch", "speed"}


def test_sampling_options_are_sent_in_the_contracts_types(fake_triton, tritone):
    tritone.synthesize("hello", voice=VOICE, temperature=0.5, top_k=3, top_p=0.9, seed=2**64 - 1, max_audio_s=4)
    inputs = fake_triton.inputs()
    assert inputs["temperature"].dtype == inputs["top_p"].dtype == inputs["max_audio_s"].dtype == np.float32
    assert (inputs["temperature"], inputs["max_audio_s"]) == ([[0.5]], [[4.0]])
    assert inputs["top_k"].dtype == np.int32 and inputs["top_k"] == [[3]]
    assert inputs["seed"].dtype == np.uint64 and inputs["seed"] == [[2**64 - 1]]


def test_text_is_normalised_only_where_asked_for(fake_triton, tritone):
    tritone.synthesize("2 dogs", voice=VOICE, normalize_text=True)
    assert fake_triton.inputs()["normalize_text"].dtype == np.bool_
    assert fake_triton.inputs()["normalize_text"] == [[True]]
    tritone.synthesize("2 dogs", voice=VOICE, normalize_text=False)
    assert "normalize_text" not in fake_triton.inputs()


def test_streams_and_the_async_client_normalise_too(fake_triton, tritone):
    async def speak_async() -> None:
        async with AsyncTritone(fake_triton.url) as client:
            await client.synthesize("2 dogs", voice=VOICE, normalize_text=True)
            _ = [piece async for piece in client.stream("2 dogs", voice=VOICE, normalize_text=True)]

    list(tritone.stream("2 dogs", voice=VOICE, normalize_text=True))
    asyncio.run(speak_async())
    names = [[tensor.name for tensor in request.inputs] for request in fake_triton.requests]
    assert len(names) == 3 and all("normalize_text" in inputs for inputs in names)


def test_unknown_option_is_refused_with_the_known_ones_named(fake_triton, tritone):
    with pytest.raises(TypeError, match=r"'temprature'.*temperature, top_k"):
        tritone.synthesize("hello", voice=VOICE, temprature=0.5)
    assert fake_triton.requests == []


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 2**64}, {"top_k": 2**31}])
def test_number_that_does_not_fit_its_tensor_is_refused(tritone, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be within"):
        tritone.stream("hello", voice=VOICE, **options)


def test_decimal_for_a_whole_number_is_refused(tritone):
    with pytest.raises(TypeError):
        tritone.synthesize("hello", voice=VOICE, top_k=1.5)


def test_controlled_voice_sends_labels_and_exact_values(fake_triton, tritone):
    voice = ControlledVoice("female", pitch="very_high", speed="low", pitch_value=300)
    tritone.synthesize("hello", voice=voice)
    inputs = fake_triton.inputs()
    assert [inputs[name] for name in ("gender", "pitch", "speed")] == [
        [["female"]],
        [["very_high"]],
        [["low"]],
    ]
    assert inputs["pitch_value"].dtype == np.int32 and inputs["pitch_value"] == [[300]]
    assert "speed_value" not in inputs


def test_reference_voice_sends_the_recordings_first_channel_and_its_transcript(fake_triton, tritone, reference_wav):
    tritone.synthesize("hello", voice=ReferenceVoice.from_file(reference_wav, "what ann says"))
    inputs = fake_triton.inputs()
    np.testing.assert_array_equal(inputs["reference_wav"], np.linspace(-0.5, 0.5, 16000, dtype=np.float32)[None])
    assert inputs["reference_wav_len"].dtype == np.int32 and inputs["reference_wav_len"] == [[16000]]
    assert inputs["reference_text"] == [["what ann says"]]


@pytest.mark.parametrize("transcript", [None, ""])
def test_reference_voice_without_transcript_sends_none(fake_triton, tritone, reference_wav, transcript):
    tritone.synthesize("hello", voice=ReferenceVoice.from_file(reference_wav, transcript))
    assert "reference_text" not in fake_triton.inputs()


# Reference audio


@pytest.mark.parametrize("sample_rate_hz", [8000, 24000, 44100])
def test_reference_audio_is_resampled_to_16_khz(sample_rate_hz):
    def tone(rate_hz: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)

    waveform = ReferenceVoice.from_waveform(tone(sample_rate_hz), sample_rate_hz).waveform
    assert waveform.shape == (16000,) and waveform.dtype == np.float32
    middle = slice(1000, -1000)  # the resampler has no neighbours at the ends
    np.testing.assert_allclose(waveform[middle], tone(16000)[middle], atol=1e-3)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".ogg", ".aiff"])
def test_reference_audio_may_be_any_format_that_soundfile_reads(tmp_path, suffix):
    path = tmp_path / f"ann{suffix}"
    soundfile.write(path, np.zeros((44100, 2)), 44100)
    assert len(ReferenceVoice.from_file(path).waveform) == pytest.approx(16000, abs=1000)  # mp3 pads its ends


def test_reference_audio_of_three_axes_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 3, 4\]"):
        ReferenceVoice.from_waveform(np.zeros((2, 3, 4)), 16000)


def test_file_that_is_no_audio_is_refused_by_name(tmp_path):
    path = tmp_path / "ann.wav"
    path.write_text("not audio")
    with pytest.raises(ValueError, match=r"ann\.wav is not an audio file"):
        ReferenceVoice.from_file(path)


def test_missing_reference_file_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        ReferenceVoice.from_file("missing.wav")


# Voice files


@pytest.mark.parametrize(
    "voice",
    [
        TokenVoice(np.arange(32, dtype=np.int32)),
        TokenVoice(np.arange(32, dtype=np.int32), np.array([5, 8191], dtype=np.int32), "what ann says: 你好"),
    ],
    ids=["timbre", "with-transcript"],
)
def test_saved_voice_loads_as_the_same_voice(tmp_path, voice, fake_triton, tritone):
    voice.save(tmp_path / "ann.json")
    loaded = TokenVoice.load(tmp_path / "ann.json")
    assert loaded.tensors().keys() == voice.tensors().keys()
    for name, array in voice.tensors().items():
        np.testing.assert_array_equal(loaded.tensors()[name], array)
        assert loaded.tensors()[name].dtype == array.dtype


def test_voice_file_has_the_servers_fields(tmp_path):
    TokenVoice(np.array([1, 2], np.int32), np.array([3], np.int32), "hi").save(tmp_path / "ann.json")
    assert json.loads((tmp_path / "ann.json").read_text()) == {
        "format": "tritone-voice/1",
        "global_tokens": [1, 2],
        "semantic_tokens": [3],
        "reference_text": "hi",
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not json", "Expecting value"),
        ("[]", "format"),
        ('{"format": "tritone-voice/2", "global_tokens": []}', "tritone-voice/1"),
        ('{"format": "tritone-voice/1"}', "global_tokens"),
        ('{"format": "tritone-voice/1", "global_tokens": ["1"]}', "global_tokens"),
        ('{"format": "tritone-voice/1", "global_tokens": [true]}', "global_tokens"),
        ('{"format": "tritone-voice/1", "global_tokens": [1e99]}', "global_tokens"),
        ('{"format": "tritone-voice/1", "global_tokens": [4294967296]}', "global_tokens"),
        ('{"format": "tritone-voice/1", "global_tokens": [1], "semantic_tokens": [1]}', "transcript"),
        ('{"format": "tritone-voice/1", "global_tokens": [1], "semantic_tokens": 1}', "semantic_tokens"),
        ('{"format": "tritone-voice/1", "global_tokens": [1], "reference_text": 1}', "reference_text"),
        ('{"format": "tritone-voice/1", "global_tokens": [1], "reference_text": "a"}', "transcript"),
    ],
)  # fmt: skip
def test_file_that_is_no_voice_is_refused_with_its_fault(tmp_path, content, complaint):
    path = tmp_path / "ann.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"ann.json is not a voice file: .*{complaint}"):
        TokenVoice.load(path)


@pytest.mark.parametrize("transcript", [None, ""])
def test_making_a_voice_without_transcript_asks_for_the_timbre_alone(fake_triton, tritone, reference_wav, transcript):
    voice = tritone.make_voice(ReferenceVoice.from_file(reference_wav, transcript))
    assert fake_triton.requests[-1].model_name == "speaker_encoder"
    np.testing.assert_array_equal(voice.global_tokens, fake_triton.global_tokens)
    assert voice.semantic_tokens is None and voice.transcript is None


def test_making_a_voice_with_transcript_asks_for_all_tokens(fake_triton, tritone, reference_wav):
    voice = tritone.make_voice(ReferenceVoice.from_file(reference_wav, "what ann says"))
    assert fake_triton.requests[-1].model_name == "audio_tokenizer"
    assert fake_triton.inputs().keys() == {"reference_wav", "reference_wav_len"}
    np.testing.assert_array_equal(voice.semantic_tokens, fake_triton.semantic_tokens)
    assert voice.transcript == "what ann says"


# What comes back


def test_whole_speech_is_the_servers_waveform(fake_triton, tritone):
    speech = tritone.synthesize("hello", voice=VOICE)
    np.testing.assert_array_equal(speech.waveform, fake_triton.waveform)
    assert speech.waveform.dtype == np.float32
    assert (speech.sample_rate_hz, speech.duration_s) == (16000, len(fake_triton.waveform) / 16000)
    assert speech.global_tokens is None and speech.semantic_tokens is None


def test_message_over_grpcs_default_limit_passes_both_ways(fake_triton, tritone):
    speech = tritone.synthesize("long", voice=ReferenceVoice(np.zeros(2_000_000, np.float32)))
    assert fake_triton.inputs()["reference_wav_len"] == [[2_000_000]]
    assert speech.duration_s == 600


def test_async_client_receives_ten_minutes_in_one_message(fake_triton):
    async def synthesize() -> Speech:
        async with AsyncTritone(fake_triton.url) as client:
            return await client.synthesize("long", voice=VOICE)

    assert asyncio.run(synthesize()).duration_s == 600


@pytest.mark.parametrize("end_reason", ["complete", "max_audio_s", "run_on"])
def test_speech_says_why_it_ended(fake_triton, tritone, end_reason):
    fake_triton.end_reason = end_reason
    assert tritone.synthesize("hello", voice=VOICE).end_reason == end_reason
    pieces = list(tritone.stream("hello", voice=VOICE))
    assert [piece.end_reason for piece in pieces] == [None, None, end_reason]
    assert Speech.join(pieces).end_reason == end_reason


def test_server_that_gives_no_end_reason_can_be_used(fake_triton, tritone):
    fake_triton.end_reason = None
    assert tritone.synthesize("hello", voice=VOICE).end_reason is None
    assert Speech.join(tritone.stream("hello", voice=VOICE)).end_reason is None


def test_stream_yields_the_servers_pieces_in_order(fake_triton, tritone):
    pieces = list(tritone.stream("hello", voice=VOICE))
    assert fake_triton.requests[-1].model_name == "spark_tts_stream"
    assert [len(piece.waveform) for piece in pieces] == [len(piece) for piece in fake_triton.pieces]
    np.testing.assert_array_equal(Speech.join(pieces).waveform, fake_triton.waveform)


def test_stream_sends_its_request_only_when_a_piece_is_asked_for(fake_triton, tritone):
    pieces = tritone.stream("hello", voice=VOICE)
    assert fake_triton.requests == []
    next(pieces)
    assert len(fake_triton.requests) == 1


def test_kept_tokens_make_a_voice_that_can_speak_again(fake_triton, tritone):
    voice = tritone.synthesize("hello", voice=ControlledVoice("female"), keep_tokens=True).voice()
    tritone.synthesize("again", voice=voice)
    np.testing.assert_array_equal(fake_triton.inputs()["global_tokens"], fake_triton.global_tokens[None])
    assert fake_triton.inputs().keys() == {"target_text", "global_tokens"}


def test_voice_kept_with_its_text_carries_semantic_tokens(fake_triton, tritone):
    voice = tritone.synthesize("hello", voice=VOICE, keep_tokens=True).voice(transcript="hello")
    tritone.synthesize("again", voice=voice)
    np.testing.assert_array_equal(fake_triton.inputs()["semantic_tokens"], fake_triton.semantic_tokens[None])
    assert fake_triton.inputs()["reference_text"] == [["hello"]]


def test_joined_stream_keeps_the_last_pieces_tokens(fake_triton, tritone):
    speech = Speech.join(tritone.stream("hello", voice=VOICE, keep_tokens=True))
    np.testing.assert_array_equal(speech.global_tokens, fake_triton.global_tokens)
    np.testing.assert_array_equal(speech.semantic_tokens, fake_triton.semantic_tokens)


def test_voice_of_speech_without_tokens_says_how_to_keep_them(tritone):
    with pytest.raises(ValueError, match="keep_tokens=True"):
        tritone.synthesize("hello", voice=VOICE).voice()


def test_joining_no_pieces_is_refused():
    with pytest.raises(ValueError, match="no pieces"):
        Speech.join([])


@pytest.mark.parametrize(("suffix", "subtype"), [(".wav", "PCM_16"), (".flac", "PCM_16"), (".ogg", "VORBIS")])
def test_speech_is_saved_in_the_format_of_the_suffix(tmp_path, suffix, subtype):
    path = tmp_path / f"out{suffix}"
    Speech(np.zeros(16000, np.float32)).save(path)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (16000, 1, 16000, subtype)


def test_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"missing/out\.wav cannot be written"):
        Speech(np.zeros(10, np.float32)).save(tmp_path / "missing" / "out.wav")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
def test_full_disk_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "out.wav").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"out\.wav cannot be written"):
        Speech(np.zeros(16000, np.float32)).save(tmp_path / "out.wav")


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'\.docx'"):
        Speech(np.zeros(10, np.float32)).save(tmp_path / "out.docx")


# Failures


@pytest.mark.parametrize(
    ("text", "kind", "status", "message"),
    [
        ("bad", TritoneError, "INVALID_ARGUMENT", "target_text must be good"),
        ("busy", Unavailable, "UNAVAILABLE", "too many requests: try again in about 2 s"),
        ("unloaded", Unavailable, "UNAVAILABLE", "Request for unknown model: 'spark_tts' has no available versions"),
    ],
)
def test_servers_status_and_sentence_reach_the_caller(fake_triton, tritone, text, kind, status, message):
    async def synthesize_async() -> Speech:
        async with AsyncTritone(fake_triton.url) as client:
            return await client.synthesize(text, voice=VOICE)

    async def stream_async() -> list[Speech]:
        async with AsyncTritone(fake_triton.url) as client:
            return [piece async for piece in client.stream(text, voice=VOICE)]

    for call in (
        lambda: tritone.synthesize(text, voice=VOICE),
        lambda: list(tritone.stream(text, voice=VOICE)),
        lambda: asyncio.run(synthesize_async()),
        lambda: asyncio.run(stream_async()),
    ):
        with pytest.raises(TritoneError) as caught:
            call()
        assert (type(caught.value), caught.value.status, str(caught.value)) == (kind, status, message)


def test_streams_error_without_a_status_is_reported(tritone):
    with pytest.raises(TritoneError, match="there is no such model") as caught:
        list(tritone.stream("no such model", voice=VOICE))
    assert caught.value.status == "UNKNOWN"


def test_response_without_a_waveform_is_an_error(tritone):
    with pytest.raises(TritoneError, match="spark_tts answered without a waveform"):
        tritone.synthesize("nothing", voice=VOICE)


def test_unreachable_server_is_named():
    url = unused_url()
    with Tritone(url) as tritone, pytest.raises(Unavailable, match=f"no server answers at {url}") as caught:
        tritone.synthesize("hello", voice=VOICE)
    assert caught.value.status == "UNAVAILABLE"


def test_unreachable_server_is_named_by_a_stream():
    url = unused_url()
    with Tritone(url) as tritone, pytest.raises(Unavailable, match=f"no server answers at {url}"):
        list(tritone.stream("hello", voice=VOICE))


def test_request_that_finds_the_server_busy_is_sent_again(fake_triton):
    async def speak_async(is_stream: bool) -> list[Speech]:
        async with AsyncTritone(fake_triton.url) as client:
            if is_stream:
                return [piece async for piece in client.stream("busy at first", voice=VOICE)]
            return [await client.synthesize("busy at first", voice=VOICE)]

    with Tritone(fake_triton.url) as tritone:
        for speak in (
            lambda: [tritone.synthesize("busy at first", voice=VOICE)],
            lambda: list(tritone.stream("busy at first", voice=VOICE)),
            lambda: asyncio.run(speak_async(is_stream=False)),
            lambda: asyncio.run(speak_async(is_stream=True)),
        ):
            fake_triton.requests.clear()
            assert len(Speech.join(speak()).waveform) == len(fake_triton.waveform)
            assert len(fake_triton.requests) == 3


def test_busy_server_is_asked_four_times_and_a_wrong_request_is_sent_once(fake_triton, tritone):
    for text, num_requests in (("busy", 4), ("bad", 1)):
        for speak in (tritone.synthesize, lambda *args, **options: list(tritone.stream(*args, **options))):
            fake_triton.requests.clear()
            with pytest.raises(TritoneError):
                speak(text, voice=VOICE)
            assert len(fake_triton.requests) == num_requests


def test_stream_that_has_begun_to_speak_is_not_sent_again(fake_triton, tritone):
    async def stream_async() -> list[Speech]:
        async with AsyncTritone(fake_triton.url) as client:
            return [piece async for piece in client.stream("gone", voice=VOICE)]

    for stream in (lambda: list(tritone.stream("gone", voice=VOICE)), lambda: asyncio.run(stream_async())):
        fake_triton.requests.clear()
        with pytest.raises(Unavailable, match="Socket closed"):
            stream()
        assert len(fake_triton.requests) == 1


def test_no_try_is_begun_after_the_time_limit(fake_triton):
    with Tritone(fake_triton.url, timeout_s=0.04) as tritone:  # less than the shortest pause
        for speak in (tritone.synthesize, lambda *args, **options: list(tritone.stream(*args, **options))):
            fake_triton.requests.clear()
            with pytest.raises(TritoneError):
                speak("busy", voice=VOICE)
            assert len(fake_triton.requests) <= 1


def test_client_certificate_without_its_key_is_refused():
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate="client.pem")


def test_client_serves_on_after_an_error(fake_triton, tritone):
    with pytest.raises(TritoneError):
        tritone.synthesize("bad", voice=VOICE)
    assert len(tritone.synthesize("hello", voice=VOICE).waveform) == len(fake_triton.waveform)


def test_timeout_ends_a_request_that_takes_longer(fake_triton):
    with Tritone(fake_triton.url, timeout_s=0.5) as tritone, pytest.raises(TritoneError) as caught:
        tritone.synthesize("hang", voice=VOICE)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert fake_triton.cancelled.wait(WAIT_S)


# Cancelling


def test_closing_a_stream_cancels_it_on_the_server(fake_triton, tritone):
    pieces = tritone.stream("hang", voice=VOICE)
    next(pieces)
    assert not fake_triton.cancelled.is_set()
    pieces.close()
    assert fake_triton.cancelled.wait(WAIT_S)


def test_closing_the_client_cancels_its_streams(fake_triton):
    tritone = Tritone(fake_triton.url)
    pieces = tritone.stream("hang", voice=VOICE)
    next(pieces)
    tritone.close()
    assert fake_triton.cancelled.wait(WAIT_S)


def test_closing_an_async_stream_cancels_it_on_the_server(fake_triton):
    async def hear_one_piece() -> None:
        async with AsyncTritone(fake_triton.url) as client:
            async with aclosing(client.stream("hang", voice=VOICE)) as pieces:
                async for _ in pieces:
                    break
            assert await asyncio.to_thread(fake_triton.cancelled.wait, WAIT_S)

    asyncio.run(hear_one_piece())


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_cancelling_a_task_cancels_its_request_on_the_server(fake_triton, streamed):
    async def speak(client: AsyncTritone) -> None:
        if streamed:
            _ = [piece async for piece in client.stream("hang", voice=VOICE)]
        else:
            await client.synthesize("hang", voice=VOICE)

    async def cancel_speaking() -> None:
        async with AsyncTritone(fake_triton.url) as client:
            task = asyncio.create_task(speak(client))
            assert await asyncio.to_thread(fake_triton.hanging.wait, WAIT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake_triton.cancelled.wait, WAIT_S)

    asyncio.run(cancel_speaking())


# Side by side: the server answers "meet" only when all of them are under way at once


def test_one_client_carries_streams_side_by_side(fake_triton, tritone):
    def stream(_: int) -> Speech:
        return Speech.join(tritone.stream("meet", voice=VOICE))

    with ThreadPoolExecutor(fake_triton.num_side_by_side) as threads:
        speeches = list(threads.map(stream, range(fake_triton.num_side_by_side)))
    for speech in speeches:
        np.testing.assert_array_equal(speech.waveform, fake_triton.waveform)


def test_one_async_client_carries_streams_side_by_side(fake_triton):
    async def stream(client: AsyncTritone) -> Speech:
        return Speech.join([piece async for piece in client.stream("meet", voice=VOICE)])

    async def stream_side_by_side() -> list[Speech]:
        async with AsyncTritone(fake_triton.url) as client:
            return await asyncio.gather(*(stream(client) for _ in range(fake_triton.num_side_by_side)))

    for speech in asyncio.run(stream_side_by_side()):
        np.testing.assert_array_equal(speech.waveform, fake_triton.waveform)


def test_async_client_makes_a_voice(fake_triton, reference_wav):
    async def make_voice() -> TokenVoice:
        async with AsyncTritone(fake_triton.url) as client:
            return await client.make_voice(ReferenceVoice.from_file(reference_wav))

    np.testing.assert_array_equal(asyncio.run(make_voice()).global_tokens, fake_triton.global_tokens)


# The README


def test_readmes_python_examples_run(fake_triton, reference_wav, monkeypatch):
    monkeypatch.chdir(reference_wav.parent)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example.replace("localhost:8001", fake_triton.url), {})
    assert {path.name for path in reference_wav.parent.iterdir()} == {
        *("ann.wav", "ann.json", "nice.wav", "ann_says.flac"),
    }
