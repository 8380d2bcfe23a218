"""Through the real server in float32, the tiny checkpoint gives what the published code gives, alone and under load."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritone_client import ControlledVoice, ReferenceVoice, Speech, TokenVoice, Tritone

from build_engines.codec import signal_to_noise_db
from tritone.serve import TritonServer

GOLDEN_DIR = Path(__file__).parents[1] / "golden"
TEXT = "Hello world, 你好世界!"
TRANSCRIPT = "The quick brown fox jumps over the lazy dog near the river bank."
CLIPS = ("en_f3", "zh_m", "en_m2_short")


def infer(server: TritonServer, model: str, **arrays: np.ndarray) -> triton.InferResult:
    with triton.InferenceServerClient(server.grpc_url) as client:
        inputs = []
        for name, array in arrays.items():
            tensor = triton.InferInput(name, array.shape, triton.np_to_triton_dtype(array.dtype))
            inputs.append(tensor.set_data_from_numpy(array))
        return client.infer(model, inputs)


@pytest.mark.parametrize("clip", CLIPS)
def test_audio_tokenizer_gives_the_published_tokens(
    parity_server: TritonServer, golden: dict[str, np.ndarray], clip: str
) -> None:
    samples = ReferenceVoice.from_file(GOLDEN_DIR / f"{clip}.wav").waveform
    padded = np.pad(samples, (0, 8000))[None]
    length = np.array([[len(samples)]], np.int32)
    result = infer(parity_server, "audio_tokenizer", reference_wav=padded, reference_wav_len=length)
    np.testing.assert_array_equal(result.as_numpy("global_tokens")[0], golden[f"{clip}.global"])
    np.testing.assert_array_equal(result.as_numpy("semantic_tokens")[0], golden[f"{clip}.semantic"])


@pytest.mark.parametrize("clip", CLIPS)
def test_vocoder_gives_the_published_waveform(
    parity_server: TritonServer, golden: dict[str, np.ndarray], clip: str
) -> None:
    result = infer(
        parity_server,
        "vocoder",
        global_tokens=golden[f"{clip}.global"][None],
        semantic_tokens=golden[f"{clip}.semantic"][None],
    )
    assert signal_to_noise_db(result.as_numpy("waveform")[0], golden[f"{clip}.waveform"]) > 60


def test_greedy_speech_continues_as_the_published_model_does(
    parity_server: TritonServer, golden: dict[str, np.ndarray]
) -> None:
    greedy = golden["greedy.clone_with_transcript"]
    voice = TokenVoice(golden["en_f3.global"], golden["en_f3.semantic"], TRANSCRIPT)
    with Tritone(parity_server.grpc_url) as client:
        speech = client.synthesize(TEXT, voice=voice, temperature=0.0, max_audio_s=len(greedy) / 50, keep_tokens=True)
    assert speech.semantic_tokens is not None
    first_semantic_id = int(greedy.min()) - int(speech.semantic_tokens.min())
    np.testing.assert_array_equal(speech.semantic_tokens + first_semantic_id, greedy)


def requests(golden: dict[str, np.ndarray]) -> list[tuple[str, ReferenceVoice | TokenVoice | ControlledVoice, int]]:
    return [
        (TEXT, TokenVoice(golden["en_f3.global"]), 1),
        ("another text", TokenVoice(golden["zh_m.global"]), 2),
        (TEXT, TokenVoice(golden["en_f3.global"], golden["en_f3.semantic"], TRANSCRIPT), 3),
        ("a controlled voice", ControlledVoice("male", pitch="low"), 4),
        ("and another one", ControlledVoice("female", pitch_value=300, speed_value=4), 5),
        (TEXT, ReferenceVoice.from_file(GOLDEN_DIR / "en_m2_short.wav"), 6),
        (TEXT, ReferenceVoice.from_file(GOLDEN_DIR / "en_m2_short.wav", "hi there"), 7),
    ]


def test_a_seed_gives_the_same_speech_alone_and_among_others(
    parity_server: TritonServer, golden: dict[str, np.ndarray]
) -> None:
    """Samples are bit for bit the same on an idle server; under load the tokens are (windows may run batched)."""
    with Tritone(parity_server.grpc_url) as client:

        def speak(request: tuple[str, ReferenceVoice | TokenVoice | ControlledVoice, int]) -> Speech:
            text, voice, seed = request
            return client.synthesize(text, voice=voice, seed=seed, max_audio_s=2.0, keep_tokens=True)

        alone = [speak(request) for request in requests(golden)]
        again = [speak(request) for request in requests(golden)]
        with ThreadPoolExecutor(len(alone)) as pool:
            together = list(pool.map(speak, requests(golden)))

    for first, second, third in zip(alone, again, together, strict=True):
        np.testing.assert_array_equal(first.waveform, second.waveform)
        np.testing.assert_array_equal(first.global_tokens, third.global_tokens)
        np.testing.assert_array_equal(first.semantic_tokens, third.semantic_tokens)
        assert signal_to_noise_db(third.waveform, first.waveform) > 80


def test_a_stream_is_the_whole_to_within_its_look_ahead(
    parity_server: TritonServer, golden: dict[str, np.ndarray]
) -> None:
    with Tritone(parity_server.grpc_url) as client:
        voice = TokenVoice(golden["en_f3.global"])
        whole = client.synthesize(TEXT, voice=voice, seed=8, max_audio_s=5.0, keep_tokens=True)
        pieces = list(client.stream(TEXT, voice=voice, seed=8, max_audio_s=5.0, keep_tokens=True))
    streamed = Speech.join(pieces)
    assert len(pieces) > 2
    np.testing.assert_array_equal(streamed.semantic_tokens, whole.semantic_tokens)
    assert signal_to_noise_db(streamed.waveform, whole.waveform) > 40
