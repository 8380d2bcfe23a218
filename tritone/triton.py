"""The adapter between Triton's Python backend and the rest: the only module that knows `pb_utils`."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

from tritone.errors import InvalidInput, Unavailable

CANCELLATION_POLL_S = 0.05
# An answer that crosses its request's cancellation can crash Triton before 2.53 (server, pull request 7840): let
# the front end be done with the one before it gets the other. Nobody waits for that answer.
CANCELLED_ANSWER_DELAY_S = 0.5

Row = TypeVar("Row")
Responses = AsyncGenerator[dict[str, np.ndarray], None]
Answer = Callable[[dict[str, np.ndarray]], Responses]

_log = logging.getLogger(__name__)


def version_dir(args: Mapping[str, str]) -> Path:
    """The folder of the model's version, where its artifacts lie; `args` are those of `initialize`."""
    return Path(args["model_repository"]) / args["model_version"]


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """The `parameters` of the model's config.pbtxt; `args` are those of `initialize`."""
    entries = json.loads(args["model_config"])["parameters"]
    return {name: entry["string_value"] for name, entry in entries.items()}


def input_arrays(request: pb_utils.InferenceRequest) -> dict[str, np.ndarray]:
    """The tensors that the caller sent, by name; optional ones that were left out are not in it."""
    # copied, since they lie in shared memory that goes with the request
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}


def respond_in_batch(
    requests: list[pb_utils.InferenceRequest],
    rows_of: Callable[[dict[str, np.ndarray]], list[Row]],
    run: Callable[[list[Row]], list[np.ndarray]],
    output: str,
) -> list[pb_utils.InferenceResponse]:
    """Answer the requests of one execution with a single run over all their rows.

    Args:
        rows_of: the rows of one request's inputs; an error it raises answers that request alone.
        run: one array for each row.
        output: the name of the tensor that holds a request's arrays, stacked.
    """
    rows: list[Row] = []
    answers: list[range | Exception] = []
    for request in requests:
        try:
            own_rows = rows_of(input_arrays(request))
            answers.append(range(len(rows), len(rows) + len(own_rows)))
            rows += own_rows
        except Exception as error:
            answers.append(error)
    try:
        results = run(rows) if rows else []
    except Exception as error:
        answers = [answer if isinstance(answer, Exception) else error for answer in answers]
        results = []
    return [
        error_response(answer)
        if isinstance(answer, Exception)
        else pb_utils.InferenceResponse([pb_utils.Tensor(output, np.stack([results[i] for i in answer]))])
        for answer in answers
    ]


def error_response(error: BaseException) -> pb_utils.InferenceResponse:
    """The response for a failed request: one sentence and a status code; the details go to the log."""
    if isinstance(error, InvalidInput):
        return _failed(str(error), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, Unavailable):
        return _failed(str(error), pb_utils.TritonError.UNAVAILABLE)
    if isinstance(error, asyncio.CancelledError):
        return _failed("the request was cancelled", pb_utils.TritonError.CANCELLED)
    _log.error("a request failed", exc_info=error)
    return _failed(f"internal error ({type(error).__name__}): see the server's log", pb_utils.TritonError.INTERNAL)


def _failed(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


class Metric:
    """A number on the server's metrics endpoint, for Prometheus. For one thread."""

    def __init__(self, name: str, description: str, kind: str) -> None:
        """`kind` is "counter" or "gauge"."""
        kinds = {"counter": pb_utils.MetricFamily.COUNTER, "gauge": pb_utils.MetricFamily.GAUGE}
        family = pb_utils.MetricFamily(name=name, description=description, kind=kinds[kind])
        self._family = family  # a metric ends with its family
        self._metric = family.Metric(labels={})
        self._value = 0.0

    def add(self, amount: float) -> None:
        """Count on."""
        if amount:  # each change is a message to the server
            self._metric.increment(amount)

    def set(self, value: float) -> None:
        """Put a gauge to a value."""
        if value != self._value:
            self._metric.set(value)
            self._value = value


class RequestLoop:
    """Serves each request with a coroutine, on an event loop in a thread of its own.

    So one model instance works on any number of requests at once, decoupled or not: `execute` hands them over and
    returns. (An `async def execute` would do that for decoupled models only.)
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        """`args` are those of `initialize`."""
        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self._is_decoupled = bool(policy.get("decoupled", False))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="requests", daemon=True).start()

    def serve(self, request: pb_utils.InferenceRequest, answer: Answer) -> None:
        """Send what `answer` yields for the request's inputs: one response each, by output name.

        A caller that cancels or disconnects ends `answer` with CancelledError within `CANCELLATION_POLL_S`.
        """
        sender, inputs, outputs = request.get_response_sender(), input_arrays(request), request.requested_output_names()
        asyncio.run_coroutine_threadsafe(self._serve(sender, answer(inputs), outputs), self._loop)

    async def _serve(
        self, sender: pb_utils.InferenceResponseSender, responses: Responses, requested: list[str]
    ) -> None:
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

        async def send_all() -> None:
            async with aclosing(responses):
                async for arrays in responses:
                    tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in requested]
                    sender.send(pb_utils.InferenceResponse(tensors), flags=0 if self._is_decoupled else final)
            if self._is_decoupled:
                sender.send(flags=final)

        task = asyncio.ensure_future(send_all())
        while not (await asyncio.wait([task], timeout=CANCELLATION_POLL_S))[0]:
            if sender.is_cancelled():
                task.cancel()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if task.cancelled():
            await asyncio.sleep(CANCELLED_ANSWER_DELAY_S)
        if error is not None:
            sender.send(error_response(error), flags=final)
