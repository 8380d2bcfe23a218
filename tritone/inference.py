"""Calling other models of the same server, over its own gRPC endpoint.

Not by the Python backend's calls between models (BLS): in Triton 2.51 they build their answer's arrays without holding
the interpreter's lock, so that concurrent calls, which are this pipeline's whole point, corrupt the process's memory
and in the end crash it (seen under load here). gRPC costs a fraction of a millisecond on the loopback, needs no
thread per call, and cancels.
"""

import os
from collections.abc import AsyncGenerator, Mapping

import grpc
import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import np_to_triton_dtype

from tritone.errors import InvalidInput, Unavailable

GRPC_URL_VARIABLE = "TRITONE_GRPC_URL"  # set by the launcher
DEFAULT_GRPC_URL = "127.0.0.1:8001"

_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# makes Triton end a failed stream with a status, as it does a unary call
_STREAM_METADATA = (("triton_grpc_error", "true"),)
_ERRORS: dict[grpc.StatusCode, type[Exception]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


class GrpcInference:
    """Implements `spark_tts.models.Inference` on one event loop, the one that makes the first call."""

    def __init__(self) -> None:
        self._stub_of_loop: GRPCInferenceServiceStub | None = None

    async def call(self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        """One request to `model`, its one response.

        Raises:
            InvalidInput, Unavailable, RuntimeError: as the model answered.
        """
        try:
            return _arrays(await self._stub().ModelInfer(_request(model, inputs, outputs)), outputs)
        except grpc.aio.AioRpcError as error:
            raise _error(model, error) from error

    async def stream(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """One request to a decoupled `model`, its responses as they come; closing the generator cancels it.

        Raises:
            InvalidInput, Unavailable, RuntimeError: as the model answered.
        """
        requests = iter([_request(model, inputs, outputs)])
        call = self._stub().ModelStreamInfer(requests, metadata=_STREAM_METADATA)
        try:
            async for response in call:
                if response.error_message:
                    raise RuntimeError(f"{model}: {response.error_message}")
                yield _arrays(response.infer_response, outputs)
        except grpc.aio.AioRpcError as error:
            raise _error(model, error) from error
        finally:
            call.cancel()

    def _stub(self) -> GRPCInferenceServiceStub:
        if self._stub_of_loop is None:
            url = os.environ.get(GRPC_URL_VARIABLE, DEFAULT_GRPC_URL)
            self._stub_of_loop = GRPCInferenceServiceStub(grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS))
        return self._stub_of_loop


def _request(model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model)
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
    return _ERRORS.get(error.code(), RuntimeError)(error.details() or f"{model}: {error.code().name}")
