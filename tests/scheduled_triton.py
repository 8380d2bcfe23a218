"""A Triton server without models that answers on a schedule which the text of a request names."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc.service_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
)
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

SAMPLE_RATE_HZ = 16000
WAIT_S = 60  # generous: only a broken client waits this long


def schedule(**fields: Any) -> str:
    """The text of a request that is answered as `fields` say.

    `pieces`: for each piece when it is sent, in seconds after the request came, and its seconds of audio.
    `error`: the name of the gRPC status that comes after the pieces. `meet`: first wait for so many requests at once.
    `alone`: wait until no other such request is being answered.
    """
    return json.dumps(fields)


class ScheduledTriton(GRPCInferenceServiceServicer):
    """Listens on `url`, in a thread of its own, until `stop`."""

    def __init__(self) -> None:
        self.num_running = 0
        self.most_running = 0
        self.num_answered = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        port = self._run(self._start())
        self.url = f"127.0.0.1:{port}"

    def stop(self) -> None:
        self._run(self._server.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def ModelStreamInfer(  # noqa: N802, the protocol's name
        self, requests: AsyncIterator[ModelInferRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ModelStreamInferResponse]:
        async for request in requests:
            async for samples in self._answer(request, context):
                yield ModelStreamInferResponse(infer_response=_response(request, samples))

    async def ModelInfer(  # noqa: N802
        self, request: ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> ModelInferResponse:
        pieces = [samples async for samples in self._answer(request, context)]
        return _response(request, sum(pieces))

    async def ServerMetadata(  # noqa: N802
        self, request: ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> ServerMetadataResponse:
        return ServerMetadataResponse(name="scheduled", version="1")

    async def ModelStatistics(  # noqa: N802
        self, request: ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> ModelStatisticsResponse:
        return ModelStatisticsResponse()

    async def ModelConfig(  # noqa: N802
        self, request: ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> ModelConfigResponse:
        return ModelConfigResponse()

    async def _answer(self, request: ModelInferRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[int]:
        came_at_s = time.perf_counter()
        fields = json.loads(_text(request))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            async with asyncio.timeout(WAIT_S):
                while self.most_running < fields.get("meet", 0):
                    await asyncio.sleep(0.01)
            async with self._one_at_a_time if "alone" in fields else asyncio.Semaphore():
                came_at_s = time.perf_counter() if "alone" in fields else came_at_s
                for at_s, audio_s in fields.get("pieces", []):
                    await asyncio.sleep(came_at_s + at_s - time.perf_counter())
                    yield round(audio_s * SAMPLE_RATE_HZ)
            if "error" in fields:
                await context.abort(grpc.StatusCode[fields["error"]], "as the schedule says")
            self.num_answered += 1
        finally:
            self.num_running -= 1

    async def _start(self) -> int:
        self._one_at_a_time = asyncio.Semaphore()
        self._server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)


def _text(request: ModelInferRequest) -> str:
    index = [tensor.name for tensor in request.inputs].index("target_text")
    return request.raw_input_contents[index][4:].decode()  # after its length


def _response(request: ModelInferRequest, num_samples: int) -> ModelInferResponse:
    response = ModelInferResponse(model_name=request.model_name)
    if num_samples:
        response.outputs.add(name="waveform", datatype="FP32", shape=[1, num_samples])
        response.raw_output_contents.append(np.zeros(num_samples, np.float32).tobytes())
        assert InferResult(response).as_numpy("waveform") is not None
    return response
