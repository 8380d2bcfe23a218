"""The language model of a TensorRT-LLM checkpoint, folded back and run by `transformers`: no grammar, only the bias."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from transformers import DynamicCache, Qwen2ForCausalLM


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        torch.set_num_threads(1)
        directory = Path(args["model_repository"]) / args["model_version"] / "folded"
        self._lm = Qwen2ForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).eval()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            for token in self._generate({tensor.name(): tensor.as_numpy() for tensor in request.inputs()}):
                ids = pb_utils.Tensor("output_ids", np.array([[[token]]], np.int32))
                length = pb_utils.Tensor("sequence_length", np.array([[1]], np.int32))
                sender.send(pb_utils.InferenceResponse([ids, length]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    @torch.inference_mode()
    def _generate(self, tensors: dict[str, np.ndarray]) -> Iterator[int]:
        """Bias, temperature, top_k and top_p in TensorRT-LLM's order; a request to stop comes when all is over."""
        if "stop" in tensors:
            return
        bias = torch.from_numpy(tensors["embedding_bias"][0].copy())
        end_id = int(tensors["end_id"].item()) if "end_id" in tensors else None
        generator = torch.Generator().manual_seed(int(tensors["seed"].item()) % 2**63)
        ids, cache = torch.from_numpy(tensors["input_ids"].astype(np.int64)), DynamicCache()
        for step in range(int(tensors["request_output_len"].item())):
            logits = self._lm(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1] + bias
            if end_id is not None and step < int(tensors["min_tokens"].item()):
                logits[end_id] = -torch.inf
            best, candidates = (logits / tensors["temperature"].item()).topk(int(tensors["runtime_top_k"].item()))
            weights = best.softmax(0)
            weights[weights.cumsum(0) - weights > tensors["runtime_top_p"].item()] = 0
            token = int(candidates[torch.multinomial(weights, 1, generator=generator)])
            yield token
            if token == end_id:
                return
            ids = torch.tensor([[token]])
