"""The asyncio client: the synchronous one's methods, awaited."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Self, Unpack

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tritone_client.connection import DEFAULT_NUM_RETRIES, Deadline, Tls, open_async_channel, retry_pauses_s
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


class AsyncTritone:
    """A connection to a Tritone server, made and used within one running event loop.

    A call whose task is cancelled, and a stream that is closed (aclose(), contextlib.aclosing), is cancelled
    on the server. Arguments, results and errors are those of Tritone.
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
        self._channel = open_async_channel(url, tls)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def synthesize(
        self,
        text: str,
        *,
        voice: Voice,
        keep_tokens: bool = False,
        normalize_text: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Speech:
        """Speaks `text` and returns the whole utterance; see Tritone.synthesize."""
        request = speech_request(
            WHOLE_MODEL, text, voice, sampling, keep_tokens=keep_tokens, normalize_text=normalize_text
        )
        return decode_speech(await self._infer(request))

    def stream(
        self,
        text: str,
        *,
        voice: Voice,
        keep_tokens: bool = False,
        normalize_text: bool = False,
        **sampling: Unpack[Sampling],
    ) -> AsyncGenerator[Speech]:
        """Speaks `text` and yields the utterance piece by piece; see Tritone.stream."""
        request = speech_request(
            STREAM_MODEL, text, voice, sampling, keep_tokens=keep_tokens, normalize_text=normalize_text
        )
        return self._stream(request)

    async def make_voice(self, reference: ReferenceVoice) -> TokenVoice:
        """Turns a recording into tokens; see Tritone.make_voice."""
        return decode_voice(await self._infer(voice_request(reference)), reference)

    async def close(self) -> None:
        """Closes the connection; what still runs is cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _infer(self, request: ModelInferRequest) -> ModelInferResponse:
        deadline = Deadline(self.timeout_s)
        for pause_s in retry_pauses_s(self.num_retries):
            try:
                return await self._infer_once(request, deadline.left_s())
            except Unavailable:
                if pause_s is None or deadline.is_within(pause_s):
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _infer_once(self, request: ModelInferRequest, timeout_s: float | None) -> ModelInferResponse:
        with rpc_errors_as_tritone_errors(self.url):
            call = self._stub.ModelInfer(request, timeout=timeout_s)
            try:
                return await call
            finally:
                call.cancel()  # does nothing to a finished call; ends one whose task was cancelled

    async def _stream(self, request: ModelInferRequest) -> AsyncGenerator[Speech]:
        deadline, has_begun = Deadline(self.timeout_s), False
        for pause_s in retry_pauses_s(self.num_retries):
            try:
                async with aclosing(self._stream_once(request, deadline.left_s())) as pieces:
                    async for piece in pieces:
                        has_begun = True
                        yield piece
                return
            except Unavailable:
                if has_begun or pause_s is None or deadline.is_within(pause_s):
                    raise
                await asyncio.sleep(pause_s)

    async def _stream_once(self, request: ModelInferRequest, timeout_s: float | None) -> AsyncGenerator[Speech]:
        with rpc_errors_as_tritone_errors(self.url):
            call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
            failure = None
            try:
                async for response in call:
                    failure = failure or stream_error(response)
                    if failure is None:
                        yield decode_stream_response(response)
                if failure is not None:  # only now: to leave a stream before its end is to cancel it
                    raise failure
            finally:
                call.cancel()
