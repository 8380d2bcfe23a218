"""The pipeline's requests to TensorRT-LLM's backend, by the committed GPU config, and to an older release.

No GPU is needed: a Python model is served under the config of the language model in the place of the backend.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines.repository import MODEL_REPO_DIR, config_text
from tritone.inference import GRPC_URL_VARIABLE, GrpcInference
from tritone.serve import TritonServer
from tritone.spark_tts.lm_tensors import FORBIDDEN_BIAS, LmTensors
from tritone.spark_tts.models import Phase, SparkTtsModels
from tritone.spark_tts.request import Sampling

NUM_IDS = 40
OLDER_NAMES = {"seed": "random_seed", "min_tokens": "min_length"}
MODEL = Path(__file__).parent / "released_speech_lm" / "model.py"


def write_model(repository: Path, is_older: bool) -> None:
    """The language model of the GPU profile, with another backend; as an older release has it, with other inputs."""
    config = text_format.Parse((MODEL_REPO_DIR / "speech_lm" / "configs" / "gpu.pbtxt").read_text(), ModelConfig())
    config.backend = "python"
    inputs = {tensor.name: tensor for tensor in config.input}
    inputs["embedding_bias"].dims[:] = [NUM_IDS]
    if is_older:
        for name, older in OLDER_NAMES.items():
            inputs[name].name = older
        config.input.remove(inputs["exclude_input_in_output"])
    directory = repository / "speech_lm"
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(config_text(config))
    shutil.copyfile(MODEL, directory / "1" / "model.py")


@pytest.fixture(scope="module", params=["newest", "older"])
def released_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    directory = tmp_path_factory.mktemp(request.param)
    write_model(directory / "models", is_older=request.param == "older")
    with TritonServer.on_free_ports(directory / "models", log_path=directory / "tritonserver.log") as running:
        yield running


def generate(server: TritonServer, phase: Phase, seed: int) -> list[int]:
    async def collect() -> list[int]:
        models = SparkTtsModels(GrpcInference())
        return [token async for ids in models.generate([1, 2, 3], phase, Sampling(seed=seed)) for token in ids]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(GRPC_URL_VARIABLE, server.grpc_url)
        return asyncio.run(collect())


def expected(
    allowed: set[int], num_tokens: int, seed: int, end_id: int | None = None, min_tokens: int = 0
) -> list[int]:
    """What the model says when the seed, the bias, the end and the minimum all reach it."""
    noise = np.random.default_rng(seed)
    bias = np.array([0.0 if token in allowed else FORBIDDEN_BIAS for token in range(NUM_IDS)])
    ids: list[int] = []
    while len(ids) < num_tokens:
        logits = noise.normal(size=NUM_IDS) + bias
        if end_id is not None and len(ids) < min_tokens:
            logits[end_id] = -np.inf
        token = int(logits.argmax())
        if token == end_id:
            break
        ids.append(token)
    return ids


def test_a_request_to_stop_is_taken(released_server: TritonServer) -> None:
    tensors = {name: np.array([1], np.int32) for name in ("input_ids", "input_lengths", "request_output_len")}

    async def stop() -> list[object]:
        inference = GrpcInference()
        lm_tensors = LmTensors.from_shapes(await inference.input_shapes("speech_lm"))
        request = lm_tensors.request({**tensors, "stop": np.array([True])})
        return [response async for response in inference.stream("speech_lm", request, ["output_ids"], {})]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(GRPC_URL_VARIABLE, released_server.grpc_url)
        assert asyncio.run(stop()) == []


def test_a_phase_of_fixed_length_draws_from_its_own_tokens(released_server: TritonServer) -> None:
    voice = Phase(range(8, 24), max_tokens=32)
    ids = generate(released_server, voice, seed=2**63 + 5)
    assert ids == expected(set(voice.allowed), 32, seed=2**63 + 5)
    assert len(set(ids)) > 5


def test_speech_ends_at_its_end_token_and_not_before_its_minimum(released_server: TritonServer) -> None:
    allowed = {4, 30, 31}  # a third of all draws is the end
    results = {}
    for min_tokens in (1, 12):
        speech = Phase(range(30, 32), max_tokens=60, end_id=4, min_tokens=min_tokens)
        results[min_tokens] = generate(released_server, speech, seed=3)
        assert results[min_tokens] == expected(allowed, 60, 3, end_id=4, min_tokens=min_tokens)
    assert len(results[1]) < 12 <= len(results[12]) < 60
