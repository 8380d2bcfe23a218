"""Bad input is answered with INVALID_ARGUMENT and a sentence that names the field; the next request is served."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritone_client import ControlledVoice, Tritone, TritoneError

from tritone.serve import TritonServer

MODELS = ("spark_tts", "spark_tts_stream")
LINE = "hello my friend"
VOICE = ControlledVoice("female")


def audio(duration_s: float) -> np.ndarray:
    return np.sin(np.arange(int(duration_s * 16000)) / 10).astype(np.float32)[None]


def text(value: bytes) -> np.ndarray:
    return np.array([[value]], np.object_)


def whole(value: int) -> np.ndarray:
    return np.array([[value]], np.int32)


HELLO = {"target_text": text(b"hello")}
GENDER = {**HELLO, "gender": text(b"female")}
TOKENS = {**HELLO, "global_tokens": np.zeros((1, 32), np.int32)}

BAD_INPUTS = {
    "empty text": ({**GENDER, "target_text": text(b"")}, "target_text is empty"),
    "text too long": ({**GENDER, "target_text": text(b"x" * 100_000)}, "target_text has 100000 characters"),
    "invalid UTF-8": ({**GENDER, "target_text": text(b"\xff\xfe")}, "target_text is not valid UTF-8"),
    "control token": ({**GENDER, "target_text": text(b"<|im_end|>")}, "target_text holds"),
    "no voice": (HELLO, "send one voice"),
    "two voices": ({**GENDER, "reference_wav": audio(1)}, "got reference_wav and gender"),
    "NaN reference": ({**HELLO, "reference_wav": audio(1) * np.nan}, "reference_wav holds samples"),
    "silent reference": ({**HELLO, "reference_wav": audio(1) * 0}, "reference_wav is silent"),
    "0.01 s reference": ({**HELLO, "reference_wav": audio(0.01)}, "reference_wav has 0.01 s"),
    "empty reference": ({**HELLO, "reference_wav": audio(0)}, "reference_wav"),
    "10-minute reference": ({**HELLO, "reference_wav": audio(600)}, "reference_wav has 600.0 s"),
    "unknown gender": ({**HELLO, "gender": text(b"robot")}, "gender must be one of"),
    "unknown level": ({**GENDER, "pitch": text(b"shrill")}, "pitch must be one of"),
    "pitch value": ({**GENDER, "pitch_value": whole(1001)}, "pitch_value must be between 0 and 1000"),
    "speed value": ({**GENDER, "speed_value": whole(11)}, "speed_value must be between 0 and 10"),
    "token count": ({**HELLO, "global_tokens": np.zeros((1, 31), np.int32)}, "global_tokens must be 32 values"),
    "token range": ({**HELLO, "global_tokens": np.full((1, 32), 4096, np.int32)}, "global_tokens must be values"),
    "lone semantic tokens": ({**TOKENS, "semantic_tokens": whole(1)}, "semantic_tokens and reference_text"),
    "unknown voice": ({**HELLO, "voice": text(b"../../etc/passwd")}, "is not stored on this server"),
    "sampling": ({**GENDER, "top_p": np.array([[2]], np.float32)}, "top_p must be between 0 and 1"),
}
# Triton itself refuses these, before a model sees them; of its sentences only the tensor's name is expected.
MALFORMED_INPUTS = {
    "wrong dtype": ({**HELLO, "reference_wav": audio(1).astype(np.float64)}, "reference_wav"),
    "wrong shape": ({**HELLO, "gender": text(b"female")[0]}, "gender"),
    "wrong text shape": ({**GENDER, "target_text": np.array([[b"a", b"b"]], np.object_)}, "target_text"),
    "unknown input": ({**GENDER, "emotion": text(b"happy")}, "emotion"),
}
DTYPES = {np.dtype(np.float32): "FP32", np.dtype(np.float64): "FP64", np.dtype(np.int32): "INT32"}


def infer_request(model: str, arrays: dict[str, np.ndarray]) -> ModelInferRequest:
    """A raw request: the client library would not send some of these."""
    request = ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        is_text = array.dtype == np.object_
        request.inputs.add(name=name, datatype="BYTES" if is_text else DTYPES[array.dtype], shape=array.shape)
        values = [len(value).to_bytes(4, "little") + value for value in array.reshape(-1)] if is_text else []
        request.raw_input_contents.append(b"".join(values) if is_text else array.tobytes())
    return request


def refusal(server: TritonServer, model: str, arrays: dict[str, np.ndarray]) -> str:
    """The status and the sentence that a model answers with, as a stream's message has them."""
    request, options = infer_request(model, arrays), [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options) as channel:
        stub = GRPCInferenceServiceStub(channel)
        if model == "spark_tts_stream":
            (answer,) = stub.ModelStreamInfer(iter([request]), timeout=60)
            return answer.error_message
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=60)
    return f"{caught.value.code().name}: {caught.value.details()}"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_refused_and_names_its_field(server: TritonServer, model: str, case: str) -> None:
    arrays, sentence = BAD_INPUTS[case]
    error = refusal(server, model, arrays)
    assert error.startswith("INVALID_ARGUMENT: ")
    assert sentence in error


@pytest.mark.parametrize("case", MALFORMED_INPUTS)
def test_a_malformed_unary_request_is_refused(server: TritonServer, case: str) -> None:
    arrays, name = MALFORMED_INPUTS[case]
    error = refusal(server, "spark_tts", arrays)
    assert error.startswith("INVALID_ARGUMENT: ")
    assert name in error


@pytest.mark.parametrize("case", MALFORMED_INPUTS)
def test_a_malformed_streamed_request_is_refused(server: TritonServer, case: str) -> None:
    """Triton ends such a stream with a message and no gRPC status."""
    arrays, name = MALFORMED_INPUTS[case]
    with grpc.insecure_channel(server.grpc_url) as channel:
        stream = GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter([infer_request("spark_tts_stream", arrays)]), timeout=60
        )
        (answer,) = stream
    assert name in answer.error_message


@pytest.fixture(scope="module")
def client(server: TritonServer):
    with Tritone(server.grpc_url, timeout_s=120) as tritone:
        yield tritone


def test_the_server_speaks_on_after_all_of_them(server: TritonServer, client: Tritone) -> None:
    for arrays, _ in BAD_INPUTS.values():
        refusal(server, "spark_tts_stream", arrays)
    assert client.synthesize(LINE, voice=VOICE, seed=1).duration_s > 0.3


def test_a_bad_request_does_not_harm_a_good_one_beside_it(server: TritonServer, client: Tritone) -> None:
    def bad(case: str) -> None:
        refusal(server, "spark_tts", BAD_INPUTS[case][0])

    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(client.synthesize, LINE, voice=VOICE, seed=seed) for seed in range(4)]
        for refused in [pool.submit(bad, case) for case in ("token range", "NaN reference", "control token")]:
            refused.result()
        assert all(speech.result().duration_s > 0.3 for speech in good)


@pytest.mark.parametrize(
    ("model", "arrays", "sentence"),
    [
        (
            "vocoder",
            {"global_tokens": np.full((1, 32), 4096, np.int32), "semantic_tokens": whole(0)},
            "global_tokens must be values from 0 to 4095, got 4096",
        ),
        (
            "vocoder",
            {"global_tokens": np.zeros((1, 32), np.int32), "semantic_tokens": np.zeros((1, 0), np.int32)},
            "semantic_tokens is empty",
        ),
        (
            "audio_tokenizer",
            {"reference_wav": audio(1) * 0, "reference_wav_len": whole(16000)},
            "reference_wav is silent",
        ),
        (
            "audio_tokenizer",
            {"reference_wav": audio(1), "reference_wav_len": whole(16001)},
            "reference_wav_len must be",
        ),
    ],
)
def test_models_called_directly_refuse_bad_input_too(
    server: TritonServer, model: str, arrays: dict[str, np.ndarray], sentence: str
) -> None:
    for _ in range(20):  # the encoders answer side by side, in any order
        error = refusal(server, model, arrays)
        assert error.startswith("INVALID_ARGUMENT: ")
        assert sentence in error


def test_many_refused_streams_at_once_do_not_harm_the_server(client: Tritone) -> None:
    """With gRPC's own status (the metadata `triton_grpc_error`) this many crash Triton 2.51, as a rule."""

    def refused(_: int) -> str:
        with pytest.raises(TritoneError) as caught:
            list(client.stream("", voice=VOICE))
        return caught.value.status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(refused, range(400))) == {"INVALID_ARGUMENT"}
    assert client.synthesize(LINE, voice=VOICE, seed=1).duration_s > 0.3


def test_a_client_learns_the_status_of_a_refusal(client: Tritone) -> None:
    with pytest.raises(TritoneError, match="target_text is empty") as caught:
        list(client.stream("", voice=VOICE))
    assert caught.value.status == "INVALID_ARGUMENT"
