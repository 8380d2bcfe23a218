"""Calls between models, against a scripted server on a real port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from tritone.errors import InvalidInput, Unavailable
from tritone.inference import GRPC_URL_VARIABLE, GrpcInference

VALUES = {"x": np.array([[1, 2, 3]], np.int32)}
STOP = {"stop": np.array([True])}


def response(*values: int) -> ModelInferResponse:
    answer = ModelInferResponse()
    answer.outputs.add(name="y", datatype="INT32", shape=[len(values)])
    answer.raw_output_contents.append(np.array(values, np.int32).tobytes())
    return answer


class ScriptedServer(GRPCInferenceServiceServicer):
    """`double` and `slow` double, `count` streams until told to stop; any other name is a status to fail with."""

    def __init__(self) -> None:
        self.stopped, self.slow_began, self.slow_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.counting_id = self.stop_id = ""
        self.num_cancelled = 0

    async def ModelInfer(self, request: ModelInferRequest, context: Any) -> ModelInferResponse:  # noqa: N802
        if request.model_name == "slow":
            self.slow_began.set()
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                self.num_cancelled += 1
            self.slow_ended.set()
        elif request.model_name != "double":
            await context.abort(grpc.StatusCode[request.model_name], "a sentence")
        return response(*(2 * np.frombuffer(request.raw_input_contents[0], np.int32)))

    async def ModelMetadata(self, request: ModelMetadataRequest, context: Any) -> ModelMetadataResponse:  # noqa: N802
        if request.name != "double":
            await context.abort(grpc.StatusCode[request.name], "a sentence")
        metadata = ModelMetadataResponse(name=request.name)
        metadata.inputs.add(name="x", datatype="INT32", shape=[-1, 3])
        metadata.inputs.add(name="scale", datatype="FP32", shape=[1])
        return metadata

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[ModelInferRequest], context: Any
    ) -> AsyncIterator[ModelStreamInferResponse]:
        request = await anext(requests)
        if request.model_name != "count":
            yield ModelStreamInferResponse(error_message=f"{request.model_name}: a sentence")
            return
        if any(tensor.name == "stop" for tensor in request.inputs):
            self.stop_id = request.id
            self.stopped.set()
            return
        self.counting_id, number = request.id, 0
        try:
            while not self.stopped.is_set():
                yield ModelStreamInferResponse(infer_response=response(number))
                number += 1
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise


def run(use: Callable[[GrpcInference, ScriptedServer], Coroutine[Any, Any, None]]) -> None:
    async def serve_and_use() -> None:
        scripted, server = ScriptedServer(), grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(scripted, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(GRPC_URL_VARIABLE, f"127.0.0.1:{port}")
            await use(GrpcInference(), scripted)
        await server.stop(grace=None)

    asyncio.run(serve_and_use())


def test_a_call_gives_the_requested_outputs() -> None:
    async def use(inference: GrpcInference, _: ScriptedServer) -> None:
        assert (await inference.call("double", VALUES, ["y"]))["y"].tolist() == [2, 4, 6]

    run(use)


@pytest.mark.parametrize(
    ("status", "error"),
    [("INVALID_ARGUMENT", InvalidInput), ("UNAVAILABLE", Unavailable), ("INTERNAL", RuntimeError)],
)
def test_a_model_s_error_keeps_its_kind_and_sentence(status: str, error: type[Exception]) -> None:
    async def use(inference: GrpcInference, _: ScriptedServer) -> None:
        with pytest.raises(error, match="a sentence"):
            await inference.call(status, VALUES, ["y"])
        with pytest.raises(error, match="a sentence"):
            async for _ in inference.stream(status, VALUES, ["y"], STOP):
                pass

    run(use)


def test_a_model_tells_the_shapes_of_its_inputs() -> None:
    async def use(inference: GrpcInference, _: ScriptedServer) -> None:
        assert await inference.input_shapes("double") == {"x": (-1, 3), "scale": (1,)}
        with pytest.raises(Unavailable, match="a sentence"):
            await inference.input_shapes("UNAVAILABLE")

    run(use)


def test_a_stream_closed_early_is_stopped_by_request_and_not_cancelled() -> None:
    async def use(inference: GrpcInference, scripted: ScriptedServer) -> None:
        async with aclosing(inference.stream("count", VALUES, ["y"], STOP)) as numbers:
            assert [(await anext(numbers))["y"].tolist() for _ in range(3)] == [[0], [1], [2]]
        await asyncio.wait_for(scripted.stopped.wait(), timeout=30)
        assert scripted.stop_id == scripted.counting_id != ""
        assert scripted.num_cancelled == 0

    run(use)


def test_a_cancelled_caller_leaves_its_call_running() -> None:
    async def use(inference: GrpcInference, scripted: ScriptedServer) -> None:
        caller = asyncio.ensure_future(inference.call("slow", VALUES, ["y"]))
        await asyncio.wait_for(scripted.slow_began.wait(), timeout=30)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.wait_for(scripted.slow_ended.wait(), timeout=30)
        assert scripted.num_cancelled == 0

    run(use)
