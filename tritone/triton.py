"""The adapter between Triton's Python backend and the rest: the only module that knows `pb_utils`."""

from __future__ import annotations  # the stub fills `pb_utils` only after it has imported this

import asyncio
import json
import logging
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

from tritone.errors import InvalidInput, Unavailable

CANCELLATION_POLL_S = 0.05

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
        if error is not None:
            sender.send(error_response(error), flags=final)


class BlsInference:
    """Calls other models of the same server; implements `spark_tts.models.Inference`."""

    def __init__(self, max_concurrent_calls: int) -> None:
        """
        Args:
            max_concurrent_calls: a call holds a thread while it waits, a stream until it ends; further ones queue.
        """
        self._pool = ThreadPoolExecutor(max_concurrent_calls, thread_name_prefix="bls")

    async def call(self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        """One request to `model`, its one response.

        Raises:
            InvalidInput, Unavailable, RuntimeError: as the model answered.
        """
        request = _bls_request(model, inputs, outputs, request_id="")
        return _arrays(await asyncio.get_running_loop().run_in_executor(self._pool, request.exec))

    async def stream(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str], stop: Mapping[str, np.ndarray]
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """One request to a decoupled `model`, its responses as they come.

        When the generator is closed early, `stop` goes to the model under the same request id: this server version
        has no way to cancel a call between models, and both engines of the language model take such a request.

        Raises:
            InvalidInput, Unavailable, RuntimeError: as the model answered.
        """
        loop = asyncio.get_running_loop()
        responses: asyncio.Queue[pb_utils.InferenceResponse | BaseException | None] = asyncio.Queue()
        request_id = uuid.uuid4().hex

        def pump() -> None:
            end: BaseException | None = None
            try:
                request = _bls_request(model, inputs, outputs, request_id)
                for one in request.exec(decoupled=True):
                    loop.call_soon_threadsafe(responses.put_nowait, one)
            except Exception as error:  # told to the waiting coroutine
                end = error
            loop.call_soon_threadsafe(responses.put_nowait, end)

        pumping = loop.run_in_executor(self._pool, pump)
        try:
            while (one := await responses.get()) is not None:
                if isinstance(one, BaseException):
                    raise one
                if one.has_error() or one.output_tensors():  # the last response may be empty
                    yield _arrays(one)
        finally:
            if not pumping.done():
                _bls_request(model, stop, outputs, request_id).exec(decoupled=True)


def _bls_request(
    model: str, inputs: Mapping[str, np.ndarray], outputs: list[str], request_id: str
) -> pb_utils.InferenceRequest:
    return pb_utils.InferenceRequest(
        model_name=model,
        request_id=request_id,
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        requested_output_names=outputs,
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )


def _arrays(answer: pb_utils.InferenceResponse) -> dict[str, np.ndarray]:
    if answer.has_error():
        error = answer.error()
        kinds = {pb_utils.TritonError.INVALID_ARG: InvalidInput, pb_utils.TritonError.UNAVAILABLE: Unavailable}
        raise kinds.get(error.code(), RuntimeError)(error.message())
    # copied, since the tensors lie in shared memory that goes with the response
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in answer.output_tensors()}
