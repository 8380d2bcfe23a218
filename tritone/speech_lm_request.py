"""Requests to speech_lm: the tensors of TensorRT-LLM's backend, as far as the CPU engine honours them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone.errors import InvalidInput
from tritone.speech_lm import Sampling


@dataclass(frozen=True)
class SpeechLmRequest:
    """One request: the prompt as the checkpoint's own ids INT32 [n], and how to continue it."""

    ids: np.ndarray
    max_new_tokens: int
    min_new_tokens: int
    end_id: int | None
    sampling: Sampling
    streaming: bool
    exclude_prompt: bool  # a stream never repeats it

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "SpeechLmRequest":
        """Read a request.

        As with TensorRT-LLM, a request that sets neither runtime_top_k nor runtime_top_p is greedy.

        Raises:
            InvalidInput: a tensor is missing, does not hold one value, or is out of range.
        """
        if "embedding_bias" in tensors:
            raise InvalidInput("embedding_bias cannot be used with the CPU engine: its grammar is built in")
        for name in ("input_ids", "request_output_len"):
            if name not in tensors:
                raise InvalidInput(f"{name} is missing")
        ids = tensors["input_ids"].reshape(-1)
        length = _scalar(tensors, "input_lengths", len(ids))
        if not 0 < length <= len(ids):
            raise InvalidInput(f"input_lengths must be between 1 and the {len(ids)} input_ids, got {length}")
        is_sampled = "runtime_top_k" in tensors or "runtime_top_p" in tensors
        return cls(
            ids=ids[:length],
            max_new_tokens=_scalar(tensors, "request_output_len", None),
            min_new_tokens=_scalar(tensors, "min_tokens", 0),
            end_id=_scalar(tensors, "end_id", None),
            sampling=Sampling(
                temperature=_scalar(tensors, "temperature", 1.0),
                top_k=_scalar(tensors, "runtime_top_k", 0 if is_sampled else 1),
                top_p=_scalar(tensors, "runtime_top_p", 1.0),
                repetition_penalty=_scalar(tensors, "repetition_penalty", 1.0),
                seed=_scalar(tensors, "seed", None),
            ),
            streaming=_scalar(tensors, "streaming", False),
            exclude_prompt=_scalar(tensors, "exclude_input_in_output", False),
        )


def is_stop_request(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the request asks for nothing but the end of the running one with the same id."""
    return bool(_scalar(tensors, "stop", False))


def _scalar(tensors: Mapping[str, np.ndarray], name: str, default: Any) -> Any:
    if name not in tensors:
        return default
    if tensors[name].size != 1:
        raise InvalidInput(f"{name} must hold one value, got shape {list(tensors[name].shape)}")
    return tensors[name].reshape(-1)[0].item()
