"""How requests are put to language models of other releases, from what their metadata says."""

import asyncio
from collections.abc import AsyncGenerator

import numpy as np
import pytest

from tritone.spark_tts.lm_tensors import FORBIDDEN_BIAS, LmTensors
from tritone.spark_tts.models import Phase, SparkTtsModels, Tensors
from tritone.spark_tts.request import Sampling

REQUIRED = {"input_ids": [-1], "input_lengths": [1], "request_output_len": [1]}
SAMPLING = ("temperature", "runtime_top_k", "runtime_top_p", "repetition_penalty")
OPTIONAL = {name: [1] for name in (*SAMPLING, "end_id", "pad_id", "stop", "streaming")}
CPU = {**REQUIRED, **OPTIONAL, "seed": [1], "min_tokens": [1], "exclude_input_in_output": [1]}


def with_batch_axis(shapes: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {name: (-1, *shape) for name, shape in shapes.items()}


NEWEST = with_batch_axis({**CPU, "embedding_bias": [20]})
OLDER = with_batch_axis({**REQUIRED, **OPTIONAL, "random_seed": [1], "min_length": [1], "embedding_bias": [20]})


class RecordingServer:
    """A served language model with some metadata, which answers with the ids it is told to."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], ids: list[int]) -> None:
        self._shapes, self._ids = shapes, ids
        self.requests: list[dict[str, np.ndarray]] = []
        self.stops: list[dict[str, np.ndarray]] = []
        self.num_asked = 0

    async def call(self, model: str, inputs: Tensors, outputs: list[str]) -> dict[str, np.ndarray]:
        raise NotImplementedError

    async def input_shapes(self, model: str) -> dict[str, tuple[int, ...]]:
        assert model == "speech_lm"
        self.num_asked += 1
        return self._shapes

    async def stream(
        self, model: str, inputs: Tensors, outputs: list[str], stop: Tensors
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        self.requests.append(dict(inputs))
        self.stops.append(dict(stop))
        yield {"output_ids": np.array([[self._ids]], np.int32), "sequence_length": np.array([[len(self._ids)]])}


def generate(server: RecordingServer, phase: Phase, sampling: Sampling | None = None) -> dict[str, np.ndarray]:
    """The tensors of one request, after a first one."""
    models = SparkTtsModels(server)

    async def twice() -> None:
        for _ in range(2):
            async for _ids in models.generate([5, 6, 7], phase, sampling or Sampling(seed=9)):
                pass

    asyncio.run(twice())
    return server.requests[-1]


SPEECH = Phase(range(10, 14), max_tokens=4, end_id=3, min_tokens=2)
VOICE = Phase(range(15, 18), max_tokens=2)


def test_the_newest_release_gets_the_newest_names_with_a_batch_axis() -> None:
    request = generate(RecordingServer(NEWEST, [10, 11, 3]), SPEECH)
    assert request.keys() == NEWEST.keys() - {"stop"}
    assert {len(value.shape) for value in request.values()} == {2}
    assert {name: request[name].tolist() for name in ("input_ids", "seed", "min_tokens", "end_id", "pad_id")} == {
        "input_ids": [[5, 6, 7]],
        "seed": [[9]],
        "min_tokens": [[2]],
        "end_id": [[3]],
        "pad_id": [[3]],
    }
    assert (request["seed"].dtype, request["embedding_bias"].dtype) == (np.uint64, np.float32)


def test_older_releases_get_their_names_and_nothing_they_do_not_know() -> None:
    request = generate(RecordingServer(OLDER, [10, 11, 3]), SPEECH)
    assert request.keys() == OLDER.keys() - {"stop"}
    assert (request["random_seed"].tolist(), request["min_length"].tolist()) == ([[9]], [[2]])


@pytest.mark.parametrize(("phase", "allowed"), [(SPEECH, {3, 10, 11, 12, 13}), (VOICE, {15, 16, 17})])
def test_the_bias_allows_the_phase_s_tokens_and_its_end_alone(phase: Phase, allowed: set[int]) -> None:
    (bias,) = generate(RecordingServer(NEWEST, [phase.allowed[0]] * 2), phase)["embedding_bias"]
    assert set(np.flatnonzero(bias == 0).tolist()) == allowed
    assert set(bias[bias != 0].tolist()) == {FORBIDDEN_BIAS}


def test_a_phase_without_an_end_sends_no_minimum_either() -> None:
    """TensorRT-LLM would hold off an end token of -1 by writing before the logits."""
    request = generate(RecordingServer(NEWEST, [15, 16]), VOICE)
    assert not request.keys() & {"end_id", "pad_id", "min_tokens"}


def test_an_engine_with_a_grammar_of_its_own_gets_no_bias_and_no_batch_axis() -> None:
    shapes = {name: tuple(shape) for name, shape in CPU.items()}
    request = generate(RecordingServer(shapes, [10, 3]), SPEECH)
    assert request.keys() == CPU.keys() - {"stop"}
    assert {len(value.shape) for value in request.values()} == {1}


def test_a_request_to_stop_is_put_the_same_way_without_a_bias() -> None:
    server = RecordingServer(NEWEST, [10, 3])
    generate(server, SPEECH)
    assert server.stops[-1].keys() == {"input_ids", "input_lengths", "request_output_len", "stop"}
    assert {len(value.shape) for value in server.stops[-1].values()} == {2}


def test_the_model_is_asked_once() -> None:
    server = RecordingServer(NEWEST, [10, 3])
    generate(server, SPEECH)
    assert server.num_asked == 1


@pytest.mark.parametrize("sampling", [Sampling(temperature=0, seed=1), Sampling(top_k=1, seed=1)])
def test_greedy_is_asked_for_by_top_k(sampling: Sampling) -> None:
    request = generate(RecordingServer(NEWEST, [10, 3]), SPEECH, sampling)
    assert (request["runtime_top_k"].tolist(), request["temperature"].tolist()) == ([[1]], [[1.0]])


def test_a_model_without_a_needed_tensor_is_named() -> None:
    shapes = {name: shape for name, shape in NEWEST.items() if name != "seed"}
    with pytest.raises(RuntimeError, match="takes no seed"):
        generate(RecordingServer(shapes, [10, 3]), SPEECH)


def test_a_bias_of_unknown_length_is_refused_with_its_cure() -> None:
    with pytest.raises(RuntimeError, match=r"rows of the model's vocabulary .* config\.pbtxt"):
        LmTensors.from_shapes({**NEWEST, "embedding_bias": (-1, -1)})


def test_the_bias_rules_out_what_is_forbidden_at_any_temperature() -> None:
    """In float32, against logits as far apart as they get, and no infinity in float16."""
    logits = np.array([-50, 50], np.float32) + np.array([0, FORBIDDEN_BIAS], np.float32)
    weights = np.exp((logits - logits.max()) / np.float32(10))
    assert weights.tolist() == [1.0, 0.0]
    assert np.isfinite(np.float16(FORBIDDEN_BIAS))
