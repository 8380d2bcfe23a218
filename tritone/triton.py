"""The adapter between Triton's Python backend and the rest: the only module that knows `pb_utils`."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

from tritone import tracing
from tritone.draining import entrance_of_server
from tritone.errors import InvalidInput, Unavailable, stream_message
from tritone.observations import MetricFamily

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


def error_response(error: BaseException, *, in_stream: bool = False) -> pb_utils.InferenceResponse:
    """The response for a failed request: one sentence and a status code; the details go to the log.

    A stream carries no status code, so there the status is the sentence's beginning, as `tritone.errors` says.
    """
    status, message = _told(error)
    code = {"INVALID_ARGUMENT": "INVALID_ARG"}.get(status, status)
    text = stream_message(status, message) if in_stream else message
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))


def _told(error: BaseException) -> tuple[str, str]:
    """The status and the sentence that the caller gets."""
    if isinstance(error, InvalidInput):
        return "INVALID_ARGUMENT", str(error)
    if isinstance(error, Unavailable):
        return "UNAVAILABLE", str(error)
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", "the request was cancelled"
    _log.error("a request failed", exc_info=error)
    return "INTERNAL", f"internal error ({type(error).__name__}): see the server's log"


class Metric:
    """A series on the server's metrics endpoint, as `observations.Metric`. One that fails is given up; work goes on.

    All of a process's metrics belong to one thread: two threads that change one at the same time crash the server
    (seen with 2.51).
    """

    def __init__(self, family: MetricFamily, labels: Mapping[str, str] | None = None) -> None:
        self._name = family.name
        self._value = 0.0
        self._metric: Any = None
        with self._giving_up():
            buckets = {"buckets": [float(bound) for bound in family.buckets]} if family.buckets else {}
            # Kept, since metrics end with their family; by each of them, since a family that outlives its model, in a
            # module's variable, crashes the process when it ends.
            self._family = _triton_family(family)
            self._metric = self._family.Metric(labels=dict(labels or {}), **buckets)

    def add(self, amount: float) -> None:
        """Count on."""
        if amount and self._metric is not None:  # each change is a message to the server and takes 0.1 ms
            with self._giving_up():
                self._metric.increment(amount)

    def set(self, value: float) -> None:
        """Put a gauge to a value."""
        if value != self._value and self._metric is not None:
            with self._giving_up():
                self._metric.set(value)
                self._value = value

    def observe(self, value: float) -> None:
        """Put a value into a histogram."""
        if self._metric is not None:
            with self._giving_up():
                self._metric.observe(value)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            _log.exception("the metric %s fails and is given up", self._name)
            self._metric = None


def _triton_family(family: MetricFamily) -> Any:
    kind = getattr(pb_utils.MetricFamily, family.kind.upper())
    return pb_utils.MetricFamily(name=family.name, description=family.description, kind=kind)


class RequestLoop:
    """Serves each request with a coroutine, on an event loop in a thread of its own.

    So one model instance works on any number of requests at once, decoupled or not: `execute` hands them over and
    returns. (An `async def execute` would do that for decoupled models only.)
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        """`args` are those of `initialize`."""
        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self._is_decoupled = bool(policy.get("decoupled", False))
        self._entrance = entrance_of_server()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="requests", daemon=True).start()

    def serve(self, request: pb_utils.InferenceRequest, answer: Answer) -> None:
        """Send what `answer` yields for the request's inputs: one response each, by output name.

        A caller that cancels or disconnects ends `answer` with CancelledError within `CANCELLATION_POLL_S`.
        """
        sender, inputs, outputs = request.get_response_sender(), input_arrays(request), request.requested_output_names()
        serving = self._serve(sender, answer(inputs), outputs, _traceparent(request))
        asyncio.run_coroutine_threadsafe(self._admit(sender, serving), self._loop)

    async def _admit(self, sender: pb_utils.InferenceResponseSender, serving: Coroutine[None, None, None]) -> None:
        try:
            with self._entrance.enter():
                await serving
        except Unavailable as error:
            serving.close()
            refusal = error_response(error, in_stream=self._is_decoupled)
            sender.send(refusal, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _serve(
        self,
        sender: pb_utils.InferenceResponseSender,
        responses: Responses,
        requested: list[str],
        traceparent: str | None,
    ) -> None:
        tracing.join(traceparent)
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
            sender.send(error_response(error, in_stream=self._is_decoupled), flags=final)


def _traceparent(request: pb_utils.InferenceRequest) -> str | None:
    """The span that Triton made for the request; None: it traces nothing."""
    context = request.trace().get_context()
    return json.loads(context).get("traceparent") if context else None
