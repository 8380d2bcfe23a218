"""A scripted Triton server: real gRPC on a real port, no models behind it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

WAIT_S = 30  # generous: only a broken client waits this long
LONG_S = 600


class FakeTriton(GRPCInferenceServiceServicer):
    """Answers every request with `pieces`, the tokens and `end_reason`, as far as the request asks for them.

    An `end_reason` of None is the answer of an older server, without that tensor.
    What else it does is chosen by the target text:
        "bad": INVALID_ARGUMENT.    "busy": UNAVAILABLE.    "nothing": a response without outputs.
        "unloaded": what a server says that is about to end.
        "busy at first": UNAVAILABLE for all requests but the third.
        "gone": a stream's first piece, then UNAVAILABLE, as from a server that is killed.
        "empty": a stream without responses.
        "long": ten minutes of speech; in a stream, in pieces of a second.
        "no such model": a stream's error message without a status.
        "hang": a stream's first piece, then nothing until the call is cancelled.
        "meet": a stream's first piece, then a wait until `num_side_by_side` streams have come as far.
    """

    num_side_by_side = 4

    def __init__(self) -> None:
        self.pieces = [np.full(n, level, np.float32) for n, level in [(320, 0.125), (640, 0.25), (320, -0.5)]]
        self.waveform = np.concatenate(self.pieces)
        self.global_tokens = np.arange(32, dtype=np.int32)
        self.semantic_tokens = np.array([8, 1, 8191, 0], dtype=np.int32)
        self.end_reason: str | None = "complete"
        self.requests: list[ModelInferRequest] = []
        self.hanging = threading.Event()
        self.cancelled = threading.Event()
        self._meeting = threading.Barrier(self.num_side_by_side)
        self._server = grpc.server(
            ThreadPoolExecutor(self.num_side_by_side + 1),
            options=[("grpc.max_receive_message_length", -1)],  # as Triton
        )
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def inputs(self) -> dict[str, np.ndarray]:
        """The latest request's tensors."""
        return _inputs(self.requests[-1])

    def ModelInfer(  # noqa: N802, the protocol's name
        self, request: ModelInferRequest, context: grpc.ServicerContext
    ) -> ModelInferResponse:
        self._take(request, context)
        if error := self._error(request):
            context.abort(*error)
        if _text(request) == "hang":
            self._hang()
        waveform = np.zeros(LONG_S * 16000, np.float32) if _text(request) == "long" else self.waveform
        return self._response(request, waveform, is_last=True)

    def ModelStreamInfer(  # noqa: N802
        self, requests: Iterator[ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[ModelStreamInferResponse]:
        for request in requests:
            self._take(request, context)
            if error := self._error(request):
                status, message = error  # a model puts its status before its own sentence; Triton's has none
                is_triton_s = status == grpc.StatusCode.NOT_FOUND
                yield ModelStreamInferResponse(error_message=message if is_triton_s else f"{status.name}: {message}")
                return
            if _text(request) == "no such model":
                yield ModelStreamInferResponse(error_message="there is no such model")
                return
            if _text(request) == "empty":
                return
            pieces = [np.zeros(16000, np.float32)] * LONG_S if _text(request) == "long" else self.pieces
            for index, waveform in enumerate(pieces):
                response = self._response(request, waveform, is_last=index == len(pieces) - 1)
                yield ModelStreamInferResponse(infer_response=response)
                if _text(request) == "hang":
                    self._hang()
                if _text(request) == "gone":
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                if _text(request) == "meet" and index == 0:
                    self._meeting.wait(WAIT_S)

    def _take(self, request: ModelInferRequest, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if _text(request) == "hang":  # it never ends by itself, so its end is its cancellation
            context.add_callback(self.cancelled.set)

    def _error(self, request: ModelInferRequest) -> tuple[grpc.StatusCode, str] | None:
        text = _text(request)
        if text == "bad":
            return grpc.StatusCode.INVALID_ARGUMENT, "target_text must be good"
        if text == "busy" or (text == "busy at first" and len(self.requests) != 3):
            return grpc.StatusCode.UNAVAILABLE, "too many requests: try again in about 2 s"
        if text == "unloaded":
            return grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'spark_tts' has no available versions"
        return None

    def _hang(self) -> None:
        self.hanging.set()
        self.cancelled.wait()  # at the latest stop() cancels the call

    def _response(self, request: ModelInferRequest, waveform: np.ndarray, is_last: bool) -> ModelInferResponse:
        outputs = {"waveform": ("FP32", len(waveform), waveform.tobytes())}
        if is_last:
            for name in ("global_tokens", "semantic_tokens"):
                tokens: np.ndarray = getattr(self, name)
                outputs[name] = ("INT32", len(tokens), tokens.tobytes())
        if is_last and self.end_reason is not None:
            text = self.end_reason.encode()
            outputs["end_reason"] = ("BYTES", 1, len(text).to_bytes(4, "little") + text)
        response = ModelInferResponse(model_name=request.model_name)
        for name in [output.name for output in request.outputs]:
            if name in outputs and _text(request) != "nothing":
                datatype, length, raw = outputs[name]
                response.outputs.add(name=name, datatype=datatype, shape=[1, length])
                response.raw_output_contents.append(raw)
        return response


def _text(request: ModelInferRequest) -> str:
    return _inputs(request).get("target_text", np.array([""])).item()


def _inputs(request: ModelInferRequest) -> dict[str, np.ndarray]:
    """The request's tensors, decoded by the rules of the protocol and not by the client's own code."""
    dtypes = {"FP32": np.float32, "INT32": np.int32, "UINT64": np.uint64, "BOOL": np.bool_}
    inputs = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            assert int.from_bytes(raw[:4], "little") == len(raw) - 4
            array = np.array([raw[4:].decode()])
        else:
            array = np.frombuffer(raw, dtypes[tensor.datatype])
        inputs[tensor.name] = array.reshape(tuple(tensor.shape))
    return inputs


@pytest.fixture
def fake_triton() -> Iterator[FakeTriton]:
    fake = FakeTriton()
    yield fake
    fake.stop()


@pytest.fixture
def reference_wav(tmp_path: Path) -> Path:
    """A second of stereo at 16 kHz: a ramp on the left, silence on the right."""
    path = tmp_path / "ann.wav"
    left = np.linspace(-0.5, 0.5, 16000, dtype=np.float32)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 16000, subtype="FLOAT")
    return path
