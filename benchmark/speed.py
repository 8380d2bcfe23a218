"""How fast one server speaks, and what memory it takes for that: a quick look, on work of fixed size.

`python -m benchmark streams` drives a server the way its users do. This one asks the engines inside a real server for a
fixed number of tokens, so that any checkpoint, also one of random weights, gives comparable figures.
"""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import tritonclient.grpc as triton
from tqdm import tqdm
from tritone_client import ControlledVoice, TokenVoice, Tritone

from benchmark.load import AUDIO_S, TEXT
from benchmark.published import published_lm_tokens_per_s
from benchmark.report import processor_name, write_json
from tritone.serve import TritonServer
from tritone.spark_tts.tokens import SpeechTokens

NUM_PROMPT_TOKENS = 250  # a sentence and a transcribed reference of three seconds
NUM_NEW_TOKENS = 300  # six seconds of speech
NUM_PUBLISHED_TOKENS = 40
NUM_STREAMS = (1, 2, 4, 8)


@dataclass(frozen=True)
class ModelMemory:
    """What one process of the server takes."""

    process: str
    resident_mb: float
    proportional_mb: float  # shared pages counted by share
    imports_torch: bool


@dataclass(frozen=True)
class Speed:
    """The figures of one server; medians over the repetitions."""

    machine: str
    num_cores: int
    published_lm_tokens_per_s: float  # one stream through transformers in bfloat16, on the same machine just before
    lm_tokens_per_s: dict[int, float]  # by number of concurrent streams, all together
    whole_rtf: float  # one request for a whole utterance
    stream_rtf: float  # one streamed request
    first_audio_s: float  # of that streamed request
    memory: list[ModelMemory]  # after all of that
    total_resident_mb: float
    total_proportional_mb: float


def measure_speed(checkpoint_dir: Path, repository: Path, num_repetitions: int) -> Speed:
    """Measure the published way of running the language model, then serve `repository` and measure that."""
    tokens = SpeechTokens.from_file(repository / "spark_tts" / "1" / "tokenizer.json")
    published = published_lm_tokens_per_s(checkpoint_dir, _prompt(tokens), NUM_PUBLISHED_TOKENS)
    with TritonServer.on_free_ports(repository, log_path=repository.with_name(f"{repository.name}.log")) as server:
        lm_tokens_per_s = {
            num_streams: _median(num_repetitions, partial(_lm_tokens_per_s, server.grpc_url, tokens, num_streams))
            for num_streams in tqdm(NUM_STREAMS, desc="language model", unit="level")
        }
        with Tritone(server.grpc_url) as client:
            voice = TokenVoice(np.arange(32, dtype=np.int32))
            client.synthesize(TEXT, voice=voice, seed=0, max_audio_s=1)  # a warm-up
            whole_rtf = _median(num_repetitions, lambda: _whole_rtf(client, voice))
            streamed = [_stream(client, voice) for _ in tqdm(range(num_repetitions), desc="stream", unit="request")]
            client.synthesize(TEXT, voice=ControlledVoice("female"), seed=0, max_audio_s=1)
        memory = _memory(server)
        return Speed(
            machine=processor_name(),
            num_cores=psutil.cpu_count(),
            published_lm_tokens_per_s=published,
            lm_tokens_per_s=lm_tokens_per_s,
            whole_rtf=whole_rtf,
            stream_rtf=statistics.median(rtf for rtf, _ in streamed),
            first_audio_s=statistics.median(first for _, first in streamed),
            memory=memory,
            total_resident_mb=sum(process.resident_mb for process in memory),
            total_proportional_mb=sum(process.proportional_mb for process in memory),
        )


def print_speed(speed: Speed, output: Path | None) -> None:
    """Print the figures; write them to `output` as JSON, too."""
    print(f"machine: {speed.machine}, {speed.num_cores} cores")
    print(f"language model by transformers in bf16, 1 stream: {speed.published_lm_tokens_per_s:.1f} tokens/s")
    for num_streams, tokens_per_s in speed.lm_tokens_per_s.items():
        print(f"language model, {num_streams} stream(s): {tokens_per_s:.0f} tokens/s (real time: {50 * num_streams})")
    print(f"one request of {AUDIO_S:g} s, whole: RTF {speed.whole_rtf:.3f}")
    print(
        f"one request of {AUDIO_S:g} s, streamed: RTF {speed.stream_rtf:.3f}, first audio {speed.first_audio_s:.3f} s"
    )
    for process in speed.memory:
        with_torch = ", with torch" if process.imports_torch else ""
        print(f"{process.process}: {process.resident_mb:.0f} MB resident, {process.proportional_mb:.0f} MB{with_torch}")
    print(f"all processes: {speed.total_resident_mb:.0f} MB resident, {speed.total_proportional_mb:.0f} MB by share")
    if output is not None:
        write_json(output, speed)


def _median(num_repetitions: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(num_repetitions))


def _lm_tokens_per_s(url: str, tokens: SpeechTokens, num_streams: int) -> float:
    """Tokens per second of concurrent streams together, from the first token of the last one to start to the end."""
    ended = threading.Semaphore(0)
    arrivals: list[list[tuple[float, int]]] = [[] for _ in range(num_streams)]

    def receive(index: int, result: triton.InferResult | None, error: Exception | None) -> None:
        if error is not None or result is None:
            raise RuntimeError(f"speech_lm failed: {error}")
        if result.get_response().parameters["triton_final_response"].bool_param:
            ended.release()
        else:
            arrivals[index].append((time.perf_counter(), int(result.as_numpy("sequence_length")[0])))

    clients = [triton.InferenceServerClient(url) for _ in range(num_streams)]
    try:
        for index, client in enumerate(clients):
            client.start_stream(lambda result, error, index=index: receive(index, result, error))
        for index, client in enumerate(clients):
            client.async_stream_infer("speech_lm", _lm_inputs(tokens, seed=index), enable_empty_final_response=True)
        for _ in range(num_streams):
            ended.acquire(timeout=300)
    finally:
        for client in clients:
            client.stop_stream()
            client.close()
    begin = max(stream[0][0] for stream in arrivals)
    end = min(stream[-1][0] for stream in arrivals)  # while all are running
    return sum(num for stream in arrivals for at, num in stream if begin < at <= end) / (end - begin)


def _prompt(tokens: SpeechTokens) -> list[int]:
    return [*tokens.semantic_tokens[: NUM_PROMPT_TOKENS - 1], tokens.start_semantic]


def _lm_inputs(tokens: SpeechTokens, seed: int) -> list[triton.InferInput]:
    prompt = _prompt(tokens)
    values: dict[str, np.ndarray] = {
        "input_ids": np.array(prompt, np.int32),
        "input_lengths": np.array([len(prompt)], np.int32),
        "request_output_len": np.array([NUM_NEW_TOKENS], np.int32),
        "temperature": np.array([0.8], np.float32),
        "runtime_top_k": np.array([50], np.int32),
        "runtime_top_p": np.array([0.95], np.float32),
        "seed": np.array([seed], np.uint64),
        "streaming": np.array([True]),
        "exclude_input_in_output": np.array([True]),
    }
    inputs = []
    for name, value in values.items():
        tensor = triton.InferInput(name, value.shape, triton.np_to_triton_dtype(value.dtype))
        inputs.append(tensor.set_data_from_numpy(value))
    return inputs


def _whole_rtf(client: Tritone, voice: TokenVoice) -> float:
    begin = time.perf_counter()
    speech = client.synthesize(TEXT, voice=voice, seed=1, max_audio_s=AUDIO_S)
    return (time.perf_counter() - begin) / speech.duration_s


def _stream(client: Tritone, voice: TokenVoice) -> tuple[float, float]:
    """RTF and seconds to the first audio."""
    begin, first, duration_s = time.perf_counter(), 0.0, 0.0
    for piece in client.stream(TEXT, voice=voice, seed=1, max_audio_s=AUDIO_S):
        first = first or time.perf_counter() - begin
        duration_s += piece.duration_s
    return (time.perf_counter() - begin) / duration_s, first


def _memory(server: TritonServer) -> list[ModelMemory]:
    root = psutil.Process(server.pid)
    memory = []
    for process in [root, *root.children(recursive=True)]:
        usage = process.memory_full_info()
        libraries = {Path(region.path).name for region in process.memory_maps()}
        memory.append(
            ModelMemory(
                process=_model_of(process),
                resident_mb=usage.rss / 1e6,
                proportional_mb=usage.pss / 1e6,
                imports_torch=any(name.startswith("libtorch") for name in libraries),
            )
        )
    return memory


def _model_of(process: psutil.Process) -> str:
    """The model that a Python stub runs: the folder of the model.py in its command line."""
    for argument in process.cmdline():
        if argument.endswith("model.py"):
            return Path(argument).parents[1].name
    return process.name()
