"""The tokens of a voice and of what it says in, a waveform out."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import numpy as np
import triton_python_backend_utils as pb_utils

from tritone.observations import VOCODER_TOKENS
from tritone.spark_tts.codec import Vocoder, VocoderRow
from tritone.triton import Metric, parameters, respond_in_batch, version_dir
from tritone.turns import turns_of_server


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._vocoder = Vocoder.load(version_dir(args), parameters(args), turns_of_server())
        self._num_tokens = Metric(VOCODER_TOKENS)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return respond_in_batch(requests, self._vocoder.rows, self._run, "waveform")

    def _run(self, rows: list[VocoderRow]) -> list[np.ndarray]:
        waveforms = self._vocoder.run(rows)
        self._num_tokens.add(sum(row.end - row.begin for row in rows))
        return waveforms
