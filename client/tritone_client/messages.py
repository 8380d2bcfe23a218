"""Requests and responses as Triton's messages: pure functions, the same for both clients.

The messages are tritonclient's generated ones, and so are the gRPC stubs that carry them. tritonclient's own
client classes are left out: the synchronous one allows a single stream per client object, and the two share
no interface. Over the stubs each client here is a few lines, and every stream is a gRPC call of its own that
ends, fails and is cancelled alone.
"""

import re
from typing import TypedDict

import numpy as np
from tritonclient.grpc import InferResult
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from tritone_client.errors import TritoneError, error_of
from tritone_client.speech import Speech
from tritone_client.tensors import number_tensor, text_tensor
from tritone_client.voices import ReferenceVoice, TokenVoice, Voice

WHOLE_MODEL = "spark_tts"
STREAM_MODEL = "spark_tts_stream"

# A failed stream's status is the beginning of its message. With the metadata `triton_grpc_error` Triton would send it
# as gRPC's, but Triton 2.51 crashes when some such streams fail at the same time: do not send that.
_STREAM_ERROR = re.compile(r"(?P<status>INVALID_ARGUMENT|UNAVAILABLE|CANCELLED|INTERNAL): (?P<message>.*)", re.DOTALL)


class Sampling(TypedDict, total=False):
    """How the tokens are drawn; what is left out is the server's default.

    fixed_tokens: speech of exactly so many tokens (50 a second), whatever the text: for measurements on equal work.
    """

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    max_audio_s: float
    fixed_tokens: int


SAMPLING_DTYPES: dict[str, type[np.number]] = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "repetition_penalty": np.float32,
    "seed": np.uint64,
    "max_audio_s": np.float32,
    "fixed_tokens": np.int32,
}


def speech_request(
    model: str, text: str, voice: Voice, sampling: Sampling, *, keep_tokens: bool, normalize_text: bool
) -> ModelInferRequest:
    """The request to speak `text`.

    Raises:
        TypeError: an unknown sampling option, or a value of the wrong type.
        ValueError: a number that does not fit its tensor. All other checks are the server's.
    """
    tensors = {"target_text": text_tensor(text), **voice.tensors()}
    for name, value in sampling.items():
        if name not in SAMPLING_DTYPES:
            raise TypeError(f"unknown option {name!r}; the sampling options are {', '.join(SAMPLING_DTYPES)}")
        tensors[name] = number_tensor(name, value, SAMPLING_DTYPES[name])
    if normalize_text:
        tensors["normalize_text"] = np.array([[True]])
    outputs = ["waveform", "end_reason"] + (["global_tokens", "semantic_tokens"] if keep_tokens else [])
    return _infer_request(model, tensors, outputs)


def voice_request(reference: ReferenceVoice) -> ModelInferRequest:
    """The request to turn a recording into tokens; without a transcript, into those of its timbre alone."""
    if not reference.transcript:
        return _infer_request("speaker_encoder", reference.audio_tensors(), ["global_tokens"])
    return _infer_request("audio_tokenizer", reference.audio_tensors(), ["global_tokens", "semantic_tokens"])


def decode_speech(response: ModelInferResponse) -> Speech:
    """The speech in a response of either synthesis model.

    Raises:
        TritoneError: the response holds no waveform.
    """
    names = ("waveform", "global_tokens", "semantic_tokens", "end_reason")
    waveform, global_tokens, semantic_tokens, end_reason = _outputs(response, *names)
    if waveform is None:
        raise TritoneError("INTERNAL", f"the server's model {response.model_name} answered without a waveform")
    reason = None if end_reason is None else end_reason.item().decode("utf-8")
    return Speech(waveform, global_tokens, semantic_tokens, end_reason=reason)


def stream_error(response: ModelStreamInferResponse) -> TritoneError | None:
    """The error that a stream's response tells of; None: it holds a piece of speech."""
    if not response.error_message:
        return None
    told = _STREAM_ERROR.fullmatch(response.error_message)
    if told is None:  # Triton's own, as for a model that it does not have
        return error_of("UNKNOWN", response.error_message)
    return error_of(told["status"], told["message"])


def decode_stream_response(response: ModelStreamInferResponse) -> Speech:
    """The piece of speech in a stream's response.

    Raises:
        TritoneError: it holds none.
    """
    if (error := stream_error(response)) is not None:
        raise error
    return decode_speech(response.infer_response)


def decode_voice(response: ModelInferResponse, reference: ReferenceVoice) -> TokenVoice:
    """The voice in the response to voice_request(reference).

    Raises:
        TritoneError: the response holds no global tokens.
    """
    global_tokens, semantic_tokens = _outputs(response, "global_tokens", "semantic_tokens")
    if global_tokens is None:
        raise TritoneError("INTERNAL", f"the server's model {response.model_name} answered without global tokens")
    return TokenVoice(global_tokens, semantic_tokens, reference.transcript or None)


def _infer_request(model: str, tensors: dict[str, np.ndarray], outputs: list[str]) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model)
    for name, array in tensors.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        is_text = array.dtype == np.object_
        request.raw_input_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _outputs(response: ModelInferResponse, *names: str) -> list[np.ndarray | None]:
    """The named tensors without their batch axis of one, [1, n] -> [n]; None where the response lacks one."""
    arrays = [InferResult(response).as_numpy(name) for name in names]
    return [None if array is None else array.reshape(-1).copy() for array in arrays]  # as_numpy's is read-only
