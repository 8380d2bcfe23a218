"""The synchronous client.

Python raises Ctrl-C's KeyboardInterrupt in the main thread, wherever that is. Within gRPC's own waiting, which is
Python code, it can leave a lock locked, and then even closing the channel hangs. So callers wait in a SimpleQueue,
whose waiting is C code that can be interrupted, and other threads fill it.
"""

import time
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from threading import Thread
from typing import Self, Unpack

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tritone_client.connection import DEFAULT_NUM_RETRIES, Deadline, Tls, open_channel, retry_pauses_s
from tritone_client.errors import Unavailable, rpc_errors_as_tritone_errors
from tritone_client.messages import (
    STREAM_MODEL,
    WHOLE_MODEL,
    Sampling,
    decode_speech,
    decode_stream_response,
    decode_voice,
    speech_request,
    stream_error,
    voice_request,
)
from tritone_client.speech import Speech
from tritone_client.voices import ReferenceVoice, TokenVoice, Voice


class Tritone:
    """A connection to a Tritone server. Several threads may share it; calls and streams run side by side.

    What is left early (Ctrl-C, a stream that is closed or dropped, close()) is cancelled on the server.

    Args:
        url: host and port of the server's gRPC endpoint. It is contacted by the first request, not here. Of a name with
            several addresses (`dns:///tritone:8001`), or of several addresses (`ipv4:10.0.0.1:8001,10.0.0.2:8001`), the
            requests go to each in turn.
        timeout_s: the longest that a request may take, a stream to its end, retries included; None: no limit.
        tls: speak TLS; None: plain.
        num_retries: how often a request that finds its server busy, stopping or gone is sent again, after a moment (all
            three within about a second), to the next server where there are several. A stream that has begun to speak
            is not: it fails.

    Raises:
        OSError: a file of `tls` cannot be read.
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        timeout_s: float | None = None,
        tls: Tls | None = None,
        num_retries: int = DEFAULT_NUM_RETRIES,
    ) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.num_retries = num_retries
        self._channel = open_channel(url, tls)
        self._stub = GRPCInferenceServiceStub(self._channel)

    def synthesize(
        self,
        text: str,
        *,
        voice: Voice,
        keep_tokens: bool = False,
        normalize_text: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Speech:
        """Speaks `text` and returns the whole utterance.

        Args:
            voice: a ReferenceVoice, TokenVoice, StoredVoice or ControlledVoice.
            keep_tokens: return the tokens of the speech too, so that its voice can be kept (Speech.voice).
            normalize_text: speak numbers, dates and units as words.
            sampling: temperature, top_k, top_p, repetition_penalty, seed, max_audio_s or fixed_tokens.

        Raises:
            Unavailable: the server is busy or could not be reached; try again later.
            TritoneError: the server refused the request or failed.
            TypeError, ValueError: an unknown sampling option, or a value that cannot be sent.
        """
        request = speech_request(
            WHOLE_MODEL, text, voice, sampling, keep_tokens=keep_tokens, normalize_text=normalize_text
        )
        return decode_speech(self._infer(request))

    def stream(
        self,
        text: str,
        *,
        voice: Voice,
        keep_tokens: bool = False,
        normalize_text: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Generator[Speech]:
        """Speaks `text` and yields the utterance piece by piece, each as soon as it is made.

        The request is sent when the first piece is asked for. Arguments and errors are those of synthesize().
        """
        request = speech_request(
            STREAM_MODEL, text, voice, sampling, keep_tokens=keep_tokens, normalize_text=normalize_text
        )
        return self._stream(request)

    def make_voice(self, reference: ReferenceVoice) -> TokenVoice:
        """Turns a recording into tokens, so that later requests need not send and analyse it again.

        With a transcript the voice does what the recording and its transcript would do; without one it is the
        timbre alone.

        Raises:
            Unavailable: the server is busy or could not be reached; try again later.
            TritoneError: the server refused the request or failed.
        """
        return decode_voice(self._infer(voice_request(reference)), reference)

    def close(self) -> None:
        """Closes the connection; what still runs is cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infer(self, request: ModelInferRequest) -> ModelInferResponse:
        deadline = Deadline(self.timeout_s)
        for pause_s in retry_pauses_s(self.num_retries):
            try:
                return self._infer_once(request, deadline.left_s())
            except Unavailable:
                if pause_s is None or deadline.is_within(pause_s):
                    raise
                time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _infer_once(self, request: ModelInferRequest, timeout_s: float | None) -> ModelInferResponse:
        with rpc_errors_as_tritone_errors(self.url):
            call = self._stub.ModelInfer.future(request, timeout=timeout_s)
            finished: SimpleQueue[object] = SimpleQueue()
            call.add_done_callback(finished.put)
            try:
                finished.get()
                return call.result()
            finally:
                call.cancel()  # does nothing to a finished call; ends one that Ctrl-C interrupted

    def _stream(self, request: ModelInferRequest) -> Generator[Speech]:
        deadline, has_begun = Deadline(self.timeout_s), False
        for pause_s in retry_pauses_s(self.num_retries):
            try:
                for piece in self._stream_once(request, deadline.left_s()):
                    has_begun = True
                    yield piece
                return
            except Unavailable:
                if has_begun or pause_s is None or deadline.is_within(pause_s):
                    raise
                time.sleep(pause_s)

    def _stream_once(self, request: ModelInferRequest, timeout_s: float | None) -> Generator[Speech]:
        with rpc_errors_as_tritone_errors(self.url):
            call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
            arrived: _Arrived = SimpleQueue()
            reader = Thread(target=_read, args=(call, arrived), daemon=True)
            reader.start()
            failure = None
            try:
                while (item := arrived.get()) is not None:
                    if isinstance(item, grpc.RpcError):
                        raise item
                    failure = failure or stream_error(item)
                    if failure is None:
                        yield decode_stream_response(item)
                if failure is not None:  # only now: to leave a stream before its end is to cancel it
                    raise failure
            finally:
                call.cancel()
                reader.join()  # a thread that is within gRPC when the interpreter exits can hang it


# A stream's responses, then None for its end, or its error.
_Arrived = SimpleQueue[ModelStreamInferResponse | grpc.RpcError | None]


def _read(call: Iterable[ModelStreamInferResponse], arrived: _Arrived) -> None:
    try:
        for response in call:
            arrived.put(response)
        arrived.put(None)
    except grpc.RpcError as error:
        arrived.put(error)
