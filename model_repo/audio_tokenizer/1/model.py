"""Reference audio in, the tokens of its voice and of what it says out: both encoders at once."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils

from tritone.inference import GrpcInference
from tritone.triton import RequestLoop, Responses


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._inference = GrpcInference()
        self._requests = RequestLoop(args)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            self._requests.serve(request, self._tokenize)

    async def _tokenize(self, inputs: dict[str, np.ndarray]) -> Responses:
        speaker, said = await asyncio.gather(
            self._inference.call("speaker_encoder", inputs, ["global_tokens"]),
            self._inference.call("semantic_encoder", inputs, ["semantic_tokens"]),
        )
        yield speaker | said
