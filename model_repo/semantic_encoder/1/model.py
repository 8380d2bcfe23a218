"""Reference audio in, the semantic tokens of what it says out."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import triton_python_backend_utils as pb_utils

from tritone.spark_tts.codec import SemanticEncoder
from tritone.triton import parameters, respond_in_batch, version_dir


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._encoder = SemanticEncoder.load(version_dir(args), parameters(args))

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return respond_in_batch(requests, self._encoder.rows, self._encoder.run, "semantic_tokens")
