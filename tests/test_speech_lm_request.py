from typing import Any

import numpy as np
import pytest

from tritone.errors import InvalidInput
from tritone.speech_lm import Sampling
from tritone.speech_lm_request import SpeechLmRequest, is_stop_request


def tensors(**values: Any) -> dict[str, np.ndarray]:
    """The smallest request, with further tensors of one value."""
    required = {
        "input_ids": np.array([7, 8, 9], np.int32),
        "input_lengths": np.array([3], np.int32),
        "request_output_len": np.array([20], np.int32),
    }
    return required | {name: np.array([value]) for name, value in values.items()}


def test_a_request_without_sampling_is_greedy() -> None:
    request = SpeechLmRequest.from_tensors(tensors())

    assert request.sampling.is_greedy
    assert (request.ids.tolist(), request.max_new_tokens, request.end_id) == ([7, 8, 9], 20, None)


def test_sampling_is_read_by_the_backends_names() -> None:
    values = {"temperature": 0.5, "runtime_top_k": 40, "runtime_top_p": 0.9, "seed": np.uint64(2**63)}

    request = SpeechLmRequest.from_tensors(tensors(**values))

    assert request.sampling == Sampling(temperature=0.5, top_k=40, top_p=0.9, seed=2**63)


def test_top_p_alone_samples_from_all_tokens() -> None:
    assert SpeechLmRequest.from_tensors(tensors(runtime_top_p=0.9)).sampling == Sampling(top_p=0.9)


def test_padding_behind_the_prompt_is_ignored() -> None:
    assert SpeechLmRequest.from_tensors(tensors(input_lengths=2)).ids.tolist() == [7, 8]


@pytest.mark.parametrize("name", ["input_ids", "request_output_len"])
def test_a_missing_tensor_is_named(name: str) -> None:
    request = tensors()
    del request[name]

    with pytest.raises(InvalidInput, match=name):
        SpeechLmRequest.from_tensors(request)


@pytest.mark.parametrize(
    "tensor",
    [
        {"input_lengths": np.array([4])},
        {"input_lengths": np.array([0])},
        {"runtime_top_k": np.array([1, 2])},
        {"embedding_bias": np.zeros(5, np.float32)},
        {"repetition_penalty": np.array([1.5], np.float32)},
    ],
)
def test_a_tensor_that_cannot_be_used_is_named(tensor: dict[str, np.ndarray]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(tensor))):
        SpeechLmRequest.from_tensors(tensors() | tensor)


def test_a_stop_request_is_told_apart() -> None:
    assert is_stop_request(tensors(stop=True))
    assert not is_stop_request(tensors(stop=False))
    assert not is_stop_request(tensors())
