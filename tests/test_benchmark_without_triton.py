"""The engines without Triton: what is asked of them, and what of the language model comes back."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmark import without_triton
from benchmark.without_triton import DirectInference
from build_engines.checkpoint import Checkpoint
from build_engines.repository import copy_models
from build_engines.speech_lm import build_openvino_lm
from tritone.speech_lm import FinishReason


class FakeVocoder:
    """Doubles its tokens; notes how many rows run together."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    @classmethod
    def load(cls, directory: Path, parameters: Mapping[str, str]) -> "FakeVocoder":
        return cls()

    def rows(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return list(inputs["semantic_tokens"])

    def run(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.batch_sizes.append(len(rows))
        if any(row[0] < 0 for row in rows):
            raise RuntimeError("a negative token")
        return [2 * row for row in rows]


@pytest.fixture(scope="module")
def repository(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configs, and the language model's engine."""
    directory = tmp_path_factory.mktemp("repository")
    copy_models(directory, {"speech_lm": {"precision": "f32"}})
    build_openvino_lm(Checkpoint.open(tiny_checkpoint), directory / "speech_lm" / "1" / "engine", "f32")
    return directory


@pytest.fixture
def inference(repository: Path) -> Iterator[DirectInference]:
    inference = DirectInference(repository)
    yield inference
    inference.close()


@pytest.fixture
def vocoder(monkeypatch: pytest.MonkeyPatch) -> FakeVocoder:
    vocoder = FakeVocoder()
    monkeypatch.setattr(FakeVocoder, "load", lambda directory, parameters: vocoder)
    monkeypatch.setitem(without_triton._ENGINES, "vocoder", FakeVocoder)
    return vocoder


async def decode(inference: DirectInference, token: int) -> np.ndarray:
    inputs = {"semantic_tokens": np.array([[token]], np.int32)}
    return (await inference.call("vocoder", inputs, ["waveform"]))["waveform"]


def test_rows_that_wait_run_together_in_the_servers_batch_size(
    inference: DirectInference, vocoder: FakeVocoder
) -> None:
    async def decode_all() -> list[np.ndarray]:
        return await asyncio.gather(*(decode(inference, token) for token in range(19)))

    answers = asyncio.run(decode_all())
    assert [answer.tolist() for answer in answers] == [[[2 * token]] for token in range(19)]
    assert vocoder.batch_sizes == [8, 8, 3]


def test_a_failed_run_fails_its_own_requests_alone(inference: DirectInference, vocoder: FakeVocoder) -> None:
    async def fail_then_decode() -> np.ndarray:
        with pytest.raises(RuntimeError, match="a negative token"):
            await decode(inference, -1)
        return await decode(inference, 4)

    assert asyncio.run(fail_then_decode()).tolist() == [[8]]


def lm_inputs(prompt: np.ndarray, num_new_tokens: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": prompt,
        "input_lengths": np.array([len(prompt)], np.int32),
        "request_output_len": np.array([num_new_tokens], np.int32),
        "streaming": np.array([True]),
    }


async def generate(inference: DirectInference, inputs: dict[str, np.ndarray]) -> list[list[int]]:
    groups = []
    async for tensors in inference.stream("speech_lm", inputs, ["output_ids", "sequence_length"], {}):
        assert tensors["output_ids"].shape == (1, tensors["sequence_length"][0])
        groups.append(tensors["output_ids"][0].tolist())
    return groups


def test_the_language_model_streams_what_the_published_code_says(
    inference: DirectInference, golden: dict[str, np.ndarray]
) -> None:
    expected = golden["greedy.clone_with_transcript"].tolist()
    inputs = lm_inputs(golden["prompt.clone_with_transcript"].astype(np.int32), len(expected))
    groups = asyncio.run(generate(inference, inputs))
    assert len(groups) > 1
    assert [token_id for group in groups for token_id in group] == expected


def test_a_stream_that_is_closed_early_stops_generating(
    inference: DirectInference, golden: dict[str, np.ndarray]
) -> None:
    inputs = lm_inputs(golden["prompt.clone_with_transcript"].astype(np.int32), 4000)

    async def close_early() -> FinishReason:
        stream = inference.stream("speech_lm", inputs, ["output_ids", "sequence_length"], {})
        await anext(stream)
        assert inference._lm is not None
        await stream.aclose()
        (deliveries,) = inference._lm._deliveries
        while (reason := (await deliveries.get()).finish_reason) is None:
            pass
        return reason

    assert asyncio.run(close_early()) is FinishReason.CANCELLED


def test_the_end_of_the_language_models_process_is_told(
    inference: DirectInference, golden: dict[str, np.ndarray]
) -> None:
    inputs = lm_inputs(golden["prompt.clone_with_transcript"].astype(np.int32), 4000)

    async def end_the_process() -> None:
        stream = inference.stream("speech_lm", inputs, ["output_ids", "sequence_length"], {})
        await anext(stream)
        inference.close()
        with pytest.raises(RuntimeError, match="process has ended"):
            async for _ in stream:
                pass

    asyncio.run(end_the_process())
