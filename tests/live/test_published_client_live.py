"""The published recipe's unary clients work unchanged: their tensors, by their names, types and shapes."""

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton

from demo.lines import REFERENCE_TRANSCRIPT, REFERENCE_WAV
from tritone.serve import TritonServer

# That client sends no seed; this line with this reference lasts over a second with any of 40 seeds.
TARGET = "the dog is inside the house"


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, int]:
    """Reference audio as that client sends it: zero-padded to a multiple of ten seconds, and its true length."""
    samples, _ = soundfile.read(REFERENCE_WAV, dtype="float32")  # 16 kHz
    padded = np.zeros((1, 160_000), np.float32)
    padded[0, : len(samples)] = samples
    return padded, len(samples)


def test_unary_grpc_client(server: TritonServer, reference: tuple[np.ndarray, int]) -> None:
    waveform, length = reference
    arrays = {
        "reference_wav": waveform,
        "reference_wav_len": np.array([[length]], np.int32),
        "reference_text": np.array([[REFERENCE_TRANSCRIPT]], np.object_),
        "target_text": np.array([[TARGET]], np.object_),
    }
    inputs = [triton.InferInput(name, a.shape, triton.np_to_triton_dtype(a.dtype)) for name, a in arrays.items()]
    for tensor, array in zip(inputs, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("spark_tts", inputs, outputs=[triton.InferRequestedOutput("waveform")])
    audio = result.as_numpy("waveform")
    assert audio.dtype == np.float32
    assert audio.size > 0.3 * 16000 and np.abs(audio).max() > 0.01
    assert result.as_numpy("semantic_tokens") is None  # sent on request only


def post(server: TritonServer, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://{server.http_url}/v2/models/spark_tts/infer",
        json.dumps({"inputs": tensors}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def test_unary_http_client(server: TritonServer, reference: tuple[np.ndarray, int]) -> None:
    waveform, length = reference
    answer = post(
        server,
        [
            {"name": "reference_wav", "shape": [1, 160_000], "datatype": "FP32", "data": waveform.tolist()},
            {"name": "reference_wav_len", "shape": [1, 1], "datatype": "INT32", "data": [[length]]},
            {"name": "reference_text", "shape": [1, 1], "datatype": "BYTES", "data": [REFERENCE_TRANSCRIPT]},
            {"name": "target_text", "shape": [1, 1], "datatype": "BYTES", "data": [TARGET]},
        ],
    )
    first = answer["outputs"][0]  # that client reads the first output, whatever its name
    assert first["name"] == "waveform"
    assert len(first["data"]) > 0.3 * 16000


def test_http_client_reads_what_is_wrong(server: TritonServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(server, [{"name": "target_text", "shape": [1, 1], "datatype": "BYTES", "data": [TARGET]}])
    assert caught.value.code == 400
    assert "send one voice" in json.load(caught.value)["error"]
