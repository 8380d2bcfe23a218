"""The language model by itself, through a real server, with TensorRT-LLM's tensor names."""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tritone.serve import TritonServer

DTYPES = {"seed": "UINT64", "temperature": "FP32", "embedding_bias": "FP32"} | dict.fromkeys(
    ("streaming", "stop", "exclude_input_in_output"), "BOOL"
)
ANSWER_TIMEOUT_S = 15
NUMPY_DTYPES = {"UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_, "INT32": np.int32}


class SpeechLmStream:
    """One gRPC stream to speech_lm."""

    def __init__(self, url: str) -> None:
        self._answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client = grpcclient.InferenceServerClient(url)
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def send(self, ids: list[int], num_new_tokens: int, request_id: str = "", **values: Any) -> None:
        arrays = {"input_ids": ids, "input_lengths": [len(ids)], "request_output_len": [num_new_tokens]}
        arrays |= {name: [value] for name, value in values.items()}
        inputs = []
        for name, value in arrays.items():
            dtype = DTYPES.get(name, "INT32")
            tensor = grpcclient.InferInput(name, [len(value)], dtype)
            inputs.append(tensor.set_data_from_numpy(np.array(value, NUMPY_DTYPES[dtype])))
        self._client.async_stream_infer("speech_lm", inputs, request_id=request_id, enable_empty_final_response=True)

    def responses(self) -> Iterator[list[int]]:
        """The ids of each response, until the final one."""
        is_final = False
        while not is_final:
            result, error = self._answers.get(timeout=ANSWER_TIMEOUT_S)
            if error is not None:
                raise error
            is_final = result.get_response().parameters["triton_final_response"].bool_param
            ids = result.as_numpy("output_ids")
            if ids is not None:
                yield ids.reshape(-1).tolist()

    def close(self) -> None:
        """Disconnect; what still runs is cancelled."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


@pytest.fixture
def stream(parity_server: TritonServer) -> Iterator[SpeechLmStream]:
    stream = SpeechLmStream(parity_server.grpc_url)
    yield stream
    stream.close()


def test_a_stream_carries_only_new_tokens(
    stream: SpeechLmStream, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    stream.send(clone_prompt, 40, streaming=True)

    responses = list(stream.responses())

    assert [token for ids in responses for token in ids] == greedy_ids
    assert len(responses) > 1


def test_a_whole_answer_repeats_the_prompt_unless_told_otherwise(
    stream: SpeechLmStream, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    stream.send(clone_prompt, 40)
    assert list(stream.responses()) == [clone_prompt + greedy_ids]

    stream.send(clone_prompt, 40, exclude_input_in_output=True)
    assert list(stream.responses()) == [greedy_ids]


def test_a_stop_request_ends_the_running_one_of_its_id(
    stream: SpeechLmStream, parity_server: TritonServer, clone_prompt: list[int]
) -> None:
    stream.send(clone_prompt, 30_000, request_id="long", streaming=True, temperature=1.0, runtime_top_k=50)
    running = stream.responses()
    num_tokens = len(next(running))
    stopping = SpeechLmStream(parity_server.grpc_url)
    stopping.send(clone_prompt, 1, request_id="long", stop=True)

    assert list(stopping.responses()) == []
    stopping.close()
    assert num_tokens + sum(len(ids) for ids in running) < 30_000


def test_a_bad_request_is_refused_by_name_and_the_next_one_served(
    stream: SpeechLmStream, parity_server: TritonServer, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    stream.send(clone_prompt, 40, end_id=5)
    with pytest.raises(InferenceServerException, match="end_id"):
        list(stream.responses())

    following = SpeechLmStream(parity_server.grpc_url)
    following.send(clone_prompt, 40, exclude_input_in_output=True)
    assert list(following.responses()) == [greedy_ids]
    following.close()


def test_a_caller_that_disconnects_frees_the_engine(
    parity_server: TritonServer, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    # two of these fill the KV cache: the next request would wait beyond ANSWER_TIMEOUT_S if they went on
    leaving = [SpeechLmStream(parity_server.grpc_url) for _ in range(2)]
    for one in leaving:
        one.send(clone_prompt, 30_000, streaming=True, temperature=1.0, runtime_top_k=50)
        next(one.responses())
    for one in leaving:
        one.close()

    staying = SpeechLmStream(parity_server.grpc_url)
    staying.send(clone_prompt, 10_000, exclude_input_in_output=True, end_id=greedy_ids[0])

    assert list(staying.responses()) == [greedy_ids[:1]]
    staying.close()
