"""Calling other models of the same server, over its own gRPC endpoint.

Not by the Python backend's calls between models (BLS): in Triton 2.51 they build their answer's arrays without holding
the interpreter's lock, so that concurrent calls, which are this pipeline's whole point, corrupt the process's memory
and in the end crash it (seen under load here). gRPC costs a fraction of a millisecond on the loopback and needs no
thread per call.

No call is ever cancelled over gRPC, either: before Triton 2.53 a cancellation that crosses the end of its request can
crash the whole server (triton-inference-server/server, pull request 7840). A stream is ended by a request to stop it,
any other call runs to its end unheeded.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelStreamInferResponse,
)
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import np_to_triton_dtype

from tritone import tracing
from tritone.errors import InvalidInput, Unavailable, split_stream_message

GRPC_URL_VARIABLE = "TRITONE_GRPC_URL"  # set by the launcher
DEFAULT_GRPC_URL = "127.0.0.1:8001"
# Set by the launcher when the server speaks TLS: the folder of the files whose names follow, all but the second in PEM.
INNER_TLS_DIR_VARIABLE = "TRITONE_INNER_TLS_DIR"
SERVER_CERTIFICATE, SERVER_NAME = "server.pem", "server-name"
INNER_CERTIFICATE, INNER_KEY = "inner.pem", "inner.key"

_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_Responses = AsyncIterable[ModelStreamInferResponse]
_ERRORS: dict[str, type[Exception]] = {"INVALID_ARGUMENT": InvalidInput, "UNAVAILABLE": Unavailable}


class GrpcInference:
    """Implements `spark_tts.models.Inference` on one event loop, the one that makes the first call."""

    def __init__(self) -> None:
        self._stub_of_loop: GRPCInferenceServiceStub | None = None
        self._farewells: set[asyncio.Task[None]] = set()  # the event loop itself keeps no reference to its tasks

    async def call(self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        """One request to `model`, its one response.

        Raises:
            InvalidInput, Unavailable, RuntimeError: as the model answered.
        """

        async def infer() -> ModelInferResponse:
            return await self._stub().ModelInfer(_request(model, inputs, outputs), metadata=tracing.metadata())

        try:
            return _arrays(await asyncio.shield(infer()), outputs)
        except grpc.aio.AioRpcError as error:
            raise _error(model, error) from error

    async def input_shapes(self, model: str) -> dict[str, tuple[int, ...]]:
        """The shape of each input that `model` takes; -1 where any size will do.

        Raises:
            Unavailable, RuntimeError: as the server answered.
        """
        try:
            metadata = await self._stub().ModelMetadata(ModelMetadataRequest(name=model))
        except grpc.aio.AioRpcError as error:
            raise _error(model, error) from error
        return {tensor.name: tuple(tensor.shape) for tensor in metadata.inputs}

    async def stream(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str], stop: Mapping[str, np.ndarray]
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """One request to a decoupled `model`, its responses as they come.

        When the generator is closed early, `stop` goes to the model under the same request id.

        Raises:
            InvalidInput, Unavailable, RuntimeError: as the model answered.
        """
        request_id = uuid.uuid4().hex
        call = self._start(_request(model, inputs, outputs, request_id))
        has_ended, failure = False, None
        try:
            async for response in call:
                if response.error_message:  # its end follows: to leave the call before that would be to cancel it
                    failure = _stream_error(model, response.error_message)
                else:
                    yield _arrays(response.infer_response, outputs)
            has_ended = True
            if failure is not None:
                raise failure
        except grpc.aio.AioRpcError as error:
            has_ended = True
            raise _error(model, error) from error
        finally:
            if not has_ended:
                stopping = self._start(_request(model, stop, outputs, request_id))
                farewell = asyncio.ensure_future(_read_to_the_end(stopping, call))
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)

    def _start(self, request: ModelInferRequest) -> _Responses:
        return self._stub().ModelStreamInfer(iter([request]), metadata=tracing.metadata())

    def _stub(self) -> GRPCInferenceServiceStub:
        if self._stub_of_loop is None:
            self._stub_of_loop = GRPCInferenceServiceStub(_channel())
        return self._stub_of_loop


def _channel() -> grpc.aio.Channel:
    url, tls_dir = os.environ.get(GRPC_URL_VARIABLE, DEFAULT_GRPC_URL), os.environ.get(INNER_TLS_DIR_VARIABLE)
    if not tls_dir:
        return grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        *(Path(tls_dir, name).read_bytes() for name in (SERVER_CERTIFICATE, INNER_KEY, INNER_CERTIFICATE))
    )
    # the certificate is for the name that others call the server by, not for the loopback
    name = ("grpc.ssl_target_name_override", Path(tls_dir, SERVER_NAME).read_text())
    return grpc.aio.secure_channel(url, credentials, options=[*_CHANNEL_OPTIONS, name])


async def _read_to_the_end(*calls: _Responses) -> None:
    """What an abandoned stream still answers; nobody waits for it, not for its errors either."""
    for call in calls:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass


def _request(
    model: str, inputs: Mapping[str, np.ndarray], outputs: list[str], request_id: str = ""
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=request_id)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _arrays(response: object, outputs: list[str]) -> dict[str, np.ndarray]:
    result = InferResult(response)
    return {name: result.as_numpy(name) for name in outputs}


def _error(model: str, error: grpc.aio.AioRpcError) -> Exception:
    return _ERRORS.get(error.code().name, RuntimeError)(error.details() or f"{model}: {error.code().name}")


def _stream_error(model: str, text: str) -> Exception:
    status, message = split_stream_message(text)
    return _ERRORS[status](message) if status in _ERRORS else RuntimeError(f"{model}: {message}")
