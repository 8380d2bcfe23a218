"""Token ids in, token ids out, on a CPU; many requests at once in one engine."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import threading

import numpy as np
import triton_python_backend_utils as pb_utils

from tritone.observations import LM_RUNNING, LM_TOKENS, LM_WAITING
from tritone.speech_lm import Delivery, Generation, SpeechLm, SpeechLmSettings
from tritone.speech_lm_request import SpeechLmRequest, is_stop_request
from tritone.triton import Metric, error_response, input_arrays, parameters, version_dir
from tritone.turns import turns_of_server


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        settings = SpeechLmSettings.from_parameters(parameters(args))
        self._num_running, self._num_waiting = Metric(LM_RUNNING), Metric(LM_WAITING)
        self._num_tokens = Metric(LM_TOKENS)
        self._lm = SpeechLm(version_dir(args) / "engine", settings, turns_of_server(), self._count)
        self._generations: dict[str, Generation] = {}  # by request id, of the requests that have one
        self._lock = threading.Lock()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._start(request, sender)
            except Exception as error:
                sender.send(error_response(error, in_stream=True), flags=self._final)

    def finalize(self) -> None:
        self._lm.close()

    def _start(self, request: pb_utils.InferenceRequest, sender: pb_utils.InferenceResponseSender) -> None:
        tensors, request_id = input_arrays(request), request.request_id()
        if is_stop_request(tensors):
            self._stop(request_id)
            sender.send(flags=self._final)
            return

        asked = SpeechLmRequest.from_tensors(tensors)
        prompt = asked.ids[:0] if asked.streaming or asked.exclude_prompt else asked.ids

        def respond(delivery: Delivery) -> None:
            if delivery.finish_reason is not None:
                with self._lock:
                    self._generations.pop(request_id, None)
            flags = 0 if delivery.finish_reason is None else self._final
            if delivery.error is not None:
                sender.send(error_response(delivery.error, in_stream=True), flags=flags)
            elif len(delivery.ids):
                sender.send(_response(np.concatenate([prompt, delivery.ids])), flags=flags)
            else:
                sender.send(flags=flags)

        with self._lock:
            generation = self._lm.submit(
                asked.ids,
                asked.max_new_tokens,
                respond,
                min_new_tokens=asked.min_new_tokens,
                sampling=asked.sampling,
                end_id=asked.end_id,
                streaming=asked.streaming,
                is_cancelled=sender.is_cancelled,
            )
            if request_id:
                self._generations[request_id] = generation

    def _count(self, num_running: int, num_waiting: int, num_new_tokens: int) -> None:
        self._num_running.set(num_running)
        self._num_waiting.set(num_waiting)
        self._num_tokens.add(num_new_tokens)

    def _stop(self, request_id: str) -> None:
        """Cancel the running request of this id; one that has ended already needs nothing."""
        with self._lock:
            generation = self._generations.get(request_id)
        if generation is not None:
            generation.cancel()


def _response(ids: np.ndarray) -> pb_utils.InferenceResponse:
    """output_ids INT32 [1 beam, ids], sequence_length INT32 [1 beam]."""
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("output_ids", ids[np.newaxis].astype(np.int32)),
            pb_utils.Tensor("sequence_length", np.array([len(ids)], np.int32)),
        ]
    )
