"""What a served language model takes, read from its own metadata, and a request put that way.

The pipeline asks with the tensor names of TensorRT-LLM 1.x. Other servers differ:

- TensorRT-LLM 0.19 and older call two tensors by other names and lack one;
- a model with a batch axis wants one of size 1 (TensorRT-LLM's backend takes nothing else), one without wants none;
- an engine that knows no grammar has the input `embedding_bias`, and is told by it what may be emitted. The CPU engine
  has that rule in its graph, and no such input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

OLDER_NAMES = {"seed": "random_seed", "min_tokens": "min_length"}
# Not missed where it is not known: only whole answers would repeat the prompt, and the pipeline asks for streams.
DISPENSABLE = {"exclude_input_in_output"}

# Added to the logits. Far below every logit also when a temperature of 10 has made it a tenth, and no infinity even
# in float16, from which a penalty that multiplies would make what is no number.
FORBIDDEN_BIAS = -10_000.0


@dataclass(frozen=True)
class LmTensors:
    """How to ask one language model.

    Attributes:
        names: what the model calls a tensor, by its newest name.
        has_batch_axis: whether every tensor has one.
        num_bias_values: the length of `embedding_bias`; None for a model without it.
    """

    names: Mapping[str, str]
    has_batch_axis: bool
    num_bias_values: int | None

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> "LmTensors":
        """From the shape of each input of the model, -1 where any size will do.

        Raises:
            RuntimeError: the model does not say how long its `embedding_bias` is.
        """
        names = {name: name for name in shapes}
        names |= {newest: older for newest, older in OLDER_NAMES.items() if older in shapes and newest not in shapes}
        num_bias_values = shapes["embedding_bias"][-1] if "embedding_bias" in shapes else None
        if num_bias_values == -1:
            raise RuntimeError(
                "speech_lm's embedding_bias has no fixed size: put the number of rows of the model's vocabulary into "
                "its config.pbtxt"
            )
        return cls(names, has_batch_axis=len(shapes["input_ids"]) == 2, num_bias_values=num_bias_values)

    def request(self, tensors: Mapping[str, np.ndarray], allowed: Sequence[range] = ()) -> dict[str, np.ndarray]:
        """Tensors without a batch axis, by their newest names, as this model takes them.

        Args:
            allowed: the ids that may be emitted; all if there are none.

        Raises:
            RuntimeError: the model lacks a tensor.
        """
        if allowed and self.num_bias_values is not None:
            bias = np.full(self.num_bias_values, FORBIDDEN_BIAS, np.float32)
            for ids in allowed:
                bias[ids.start : ids.stop] = 0
            tensors = {**tensors, "embedding_bias": bias}
        missing = tensors.keys() - self.names.keys() - DISPENSABLE
        if missing:
            raise RuntimeError(f"speech_lm takes no {', '.join(sorted(missing))}: it is no TensorRT-LLM model")
        return {
            self.names[name]: value[np.newaxis] if self.has_batch_axis else value
            for name, value in tensors.items()
            if name in self.names
        }
