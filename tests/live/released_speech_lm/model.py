"""A Triton model in the place of TensorRT-LLM's backend: it demands and honours what that demands and honours.

Its "logits" are noise from the seed, so that what it says is decided by the seed and the embedding bias alone. With
`seed` under its older name it is an older release.
"""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        names = {tensor["name"] for tensor in config["input"]}
        self._seed, self._min_tokens = ("seed", "min_tokens") if "seed" in names else ("random_seed", "min_length")

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        for request in requests:
            sender = request.get_response_sender()
            try:
                for response in self._responses({tensor.name(): tensor.as_numpy() for tensor in request.inputs()}):
                    sender.send(response)
                sender.send(flags=final)
            except Exception as error:
                failed = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
                sender.send(pb_utils.InferenceResponse(error=failed), flags=final)

    def _responses(self, tensors: dict[str, np.ndarray]) -> list[pb_utils.InferenceResponse]:
        if tensors["input_ids"].ndim != 2:
            raise ValueError("Expected inputTokens tensors to have 2 dimensions")
        if "stop" in tensors:
            return []
        if self._min_tokens in tensors and "end_id" not in tensors:
            raise ValueError("a minimum without an end: this would write outside the logits")
        (bias,) = tensors["embedding_bias"]
        end_id = int(tensors["end_id"].item()) if "end_id" in tensors else -1
        noise = np.random.default_rng(int(tensors[self._seed].item()))
        responses = []
        for step in range(int(tensors["request_output_len"].item())):
            logits = noise.normal(size=len(bias)) + bias
            if end_id >= 0 and step < int(tensors[self._min_tokens].item()):
                logits[end_id] = -np.inf
            token = int(logits.argmax())
            ids = pb_utils.Tensor("output_ids", np.array([[[token]]], np.int32))
            length = pb_utils.Tensor("sequence_length", np.array([[1]], np.int32))
            responses.append(pb_utils.InferenceResponse([ids, length]))
            if token == end_id:
                break
        return responses
