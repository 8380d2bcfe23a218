"""Text and a voice in, all of the speech out."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import triton_python_backend_utils as pb_utils

from tritone.inference import GrpcInference
from tritone.observations import Observations
from tritone.spark_tts.service import Service
from tritone.triton import Metric, RequestLoop, parameters, version_dir


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        observations = Observations("whole", Metric)
        self._service = Service.load(version_dir(args), parameters(args), GrpcInference(), observations)
        self._requests = RequestLoop(args)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            self._requests.serve(request, self._service.whole)
