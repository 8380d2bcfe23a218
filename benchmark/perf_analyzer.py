"""The same requests by NVIDIA's perf_analyzer and by tritone_client, so that one checks the other's times.

`make peer`, or `python -m benchmark peer --url HOST:PORT`, measures a running server with both in turns and prints
whether they agree.

What perf_analyzer prints itself as a decoupled model's latency is, in spite of what it says, the time of the *last*
response with data (release 2.51, and its sources since). So its times are taken from the timestamps that it exports.
"""

import asyncio
import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritone_client import AsyncTritone, Sampling, TokenVoice
from tritone_client.messages import STREAM_MODEL, speech_request

from benchmark.report import table
from benchmark.results import BenchmarkError

PROJECT_DIR = Path(__file__).resolve().parent.parent
INSTALLED_PROGRAM = PROJECT_DIR / "build" / "perf_analyzer" / "bin" / "perf_analyzer"

# What the program is linked to and a plain Debian lacks, by the names that it asks for, and the same libraries under
# the names that they have in the wheel nvidia-pytriton.
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}

TEXT = "The weather is nice, and the river is near the mountain."
VOICE = TokenVoice(np.arange(32, dtype=np.int32))

# By how much two medians may differ beyond their noise. The clients are not the same: perf_analyzer keeps one gRPC
# stream open where tritone_client opens one for every request, and Python decodes what C++ decodes there, on the
# processors that the server runs on. To take the end for the first response is a factor of 3 or more.
TOLERANCE = 0.1
NUM_ROUNDS = 6
STUDENT_T = 4.032  # of a 99% interval with NUM_ROUNDS - 1 degrees of freedom
# Once in hundreds of runs it was seen to leave a request out of its profile.
_MAX_ATTEMPTS = 5
# What it says where the server has not counted the requests yet when it reads the server's statistics after them: of
# runs with one short request for each place as many as one in eight.
_NOT_COUNTED = "failed to find the requested model version"


class PerfAnalyzerMissing(BenchmarkError):
    """The program or a library of it is not there; the message says what to install."""


class PerfAnalyzerError(BenchmarkError):
    """The program ran and measured nothing that can be used; the message says why."""


@dataclass(frozen=True)
class Latencies:
    """Of the requests of one measurement, in no order, counted from when each was sent.

    Attributes:
        first_response_s: float64 [n], until the first response was there
        end_s: float64 [n], until the stream was over
    """

    first_response_s: np.ndarray
    end_s: np.ndarray


@dataclass(frozen=True)
class Ratio:
    """How one client's median latency is to the other's, and the interval that noise leaves for it."""

    ours_s: float
    theirs_s: float
    lowest: float
    highest: float

    @property
    def agrees(self) -> bool:
        """Whether noise, and TOLERANCE beyond it, explains the difference."""
        return self.lowest / (1 + TOLERANCE) <= 1 <= self.highest * (1 + TOLERANCE)


@dataclass(frozen=True)
class Peers:
    """The same requests by both clients: one Latencies of each in every round."""

    ours: tuple[Latencies, ...]
    theirs: tuple[Latencies, ...]

    @property
    def first_response(self) -> Ratio:
        """tritone_client's first responses to perf_analyzer's."""
        return compare_medians(
            [latencies.first_response_s for latencies in self.ours],
            [latencies.first_response_s for latencies in self.theirs],
        )

    @property
    def end(self) -> Ratio:
        """tritone_client's ends to perf_analyzer's."""
        return compare_medians(
            [latencies.end_s for latencies in self.ours], [latencies.end_s for latencies in self.theirs]
        )


def measure_peers(url: str, *, concurrency: int, requests_per_round: int, fixed_tokens: int) -> Peers:
    """Measure a server with both clients, NUM_ROUNDS times in turns, so that a machine's drift is the same to both.

    Every request is the same one, for speech of `fixed_tokens` tokens. There are `concurrency` at any time.

    Raises:
        PerfAnalyzerMissing: perf_analyzer cannot be run.
        PerfAnalyzerError: it could not measure this server.
        TritoneError: the server failed a request of tritone_client.
    """
    sampling = Sampling(seed=1, fixed_tokens=fixed_tokens)
    request = speech_request(STREAM_MODEL, TEXT, VOICE, sampling, keep_tokens=True, normalize_text=False)

    def ours(num_requests: int) -> Latencies:
        return asyncio.run(_measure_tritone_client(url, sampling, concurrency, num_requests))

    def theirs(num_requests: int) -> Latencies:
        return run_perf_analyzer(url, request, concurrency, num_requests)

    measurements: dict[Callable[[int], Latencies], list[Latencies]] = {ours: [], theirs: []}
    check_perf_analyzer()
    ours(concurrency)  # warms the server up
    with tqdm(total=2 * NUM_ROUNDS * requests_per_round, unit="request") as progress:
        for _ in range(NUM_ROUNDS):
            for measure, rounds in measurements.items():
                rounds.append(measure(requests_per_round))
                progress.update(requests_per_round)
    return Peers(*map(tuple, measurements.values()))


async def _measure_tritone_client(url: str, sampling: Sampling, concurrency: int, num_requests: int) -> Latencies:
    first_response_s, end_s = [], []
    waiting = iter(range(num_requests))

    async def listen(client: AsyncTritone) -> None:
        for _ in waiting:  # one iterator for all listeners: whoever is free takes the next request
            sent_at_s = time.perf_counter()
            async with aclosing(client.stream(TEXT, voice=VOICE, keep_tokens=True, **sampling)) as pieces:
                arrived_at_s = [time.perf_counter() async for _ in pieces]
            end_s.append(time.perf_counter() - sent_at_s)
            first_response_s.append(arrived_at_s[0] - sent_at_s)

    async with AsyncTritone(url) as client:
        await asyncio.gather(*(listen(client) for _ in range(concurrency)))
    return Latencies(np.array(first_response_s), np.array(end_s))


def run_perf_analyzer(url: str, request: ModelInferRequest, concurrency: int, num_requests: int) -> Latencies:
    """Have perf_analyzer send one request `num_requests` times to a decoupled model, `concurrency` at any time.

    Raises:
        PerfAnalyzerMissing: it cannot be run.
        PerfAnalyzerError: the server is not there or refused a request, or some are lost every time.
    """
    for _attempt in range(_MAX_ATTEMPTS):
        latencies = _profile(url, request, concurrency, num_requests)
        if len(latencies.end_s) == num_requests:
            return latencies
    raise PerfAnalyzerError(
        f"perf_analyzer measured {len(latencies.end_s)} of {num_requests} requests in the last of {_MAX_ATTEMPTS} runs"
    )


def _profile(url: str, request: ModelInferRequest, concurrency: int, num_requests: int) -> Latencies:
    """Of one run, maybe of fewer requests or of none."""
    with tempfile.TemporaryDirectory(prefix="perf_analyzer-") as scratch:
        data, profile = Path(scratch, "data.json"), Path(scratch, "profile.json")
        data.write_text(json.dumps(input_data(request)))
        done = _execute(
            *("-m", request.model_name, "-u", url, "-i", "grpc", "--streaming", "--async", "--service-kind", "triton"),
            *("--concurrency-range", str(concurrency), "--request-count", str(num_requests)),
            *("--input-data", str(data), "--profile-export-file", str(profile)),
        )
        if _NOT_COUNTED in done.stdout:
            return Latencies(np.empty(0), np.empty(0))
        if done.returncode != 0 or not profile.exists():
            raise PerfAnalyzerError(f"perf_analyzer failed with exit code {done.returncode}:\n{done.stdout.strip()}")
        return read_profile(profile.read_bytes())


def check_perf_analyzer() -> None:
    """Raise PerfAnalyzerMissing where perf_analyzer cannot be run."""
    done = _execute("--version")
    if done.returncode != 0:
        raise PerfAnalyzerMissing(
            f"perf_analyzer does not start: {done.stdout.strip()}. Its libraries come with the wheel nvidia-pytriton "
            "(run `make setup`)"
        )


def input_data(request: ModelInferRequest) -> dict[str, object]:
    """A request's tensors as perf_analyzer reads them, whose shapes lack the batch axis."""
    tensors = zip(request.inputs, request.raw_input_contents, strict=True)
    step = {
        tensor.name: {"content": {"b64": base64.b64encode(raw).decode("ascii")}, "shape": list(tensor.shape[1:])}
        for tensor, raw in tensors
    }
    return {"data": [step]}


def read_profile(profile: bytes) -> Latencies:
    """The latencies in a file of `--profile-export-file`, of a model that ends each stream with an empty response.

    Raises:
        PerfAnalyzerError: a request was answered by its stream's end alone.
    """
    # Not read as JSON: for outputs that a response lacks perf_analyzer writes whatever its memory holds, which need not
    # be a number that JSON has.
    requests = re.findall(rb'"timestamp":(\d+),.*?"response_timestamps":\[([\d,]+)\]', profile, re.DOTALL)
    times_ns = [(int(sent), np.array(responses.split(b","), dtype=np.int64)) for sent, responses in requests]
    if any(len(responses_ns) < 2 for _, responses_ns in times_ns):
        raise PerfAnalyzerError("a request of perf_analyzer was answered without data")
    return Latencies(
        first_response_s=np.array([responses_ns[0] - sent_ns for sent_ns, responses_ns in times_ns]) / 1e9,
        end_s=np.array([responses_ns[-1] - sent_ns for sent_ns, responses_ns in times_ns]) / 1e9,
    )


def compare_medians(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Ratio:
    """The ratio of two medians over NUM_ROUNDS rounds that were measured in turns, each array a round's latencies [n].

    Its interval is Student's, of the mean over the rounds of the logarithm of each one's own ratio. Requests of one
    round are not independent, a busy machine slows all of them down; rounds are, and few of them are enough.
    """
    ratios = [np.median(ours_s) / np.median(theirs_s) for ours_s, theirs_s in zip(ours, theirs, strict=True)]
    log_ratios = np.log(ratios)
    margin = STUDENT_T * log_ratios.std(ddof=1) / np.sqrt(NUM_ROUNDS)
    lowest, highest = np.exp([log_ratios.mean() - margin, log_ratios.mean() + margin])
    return Ratio(float(np.median(np.concatenate(ours))), float(np.median(np.concatenate(theirs))), lowest, highest)


def _execute(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run perf_analyzer; what it writes to either output is in stdout."""
    program = shutil.which("perf_analyzer") or (str(INSTALLED_PROGRAM) if INSTALLED_PROGRAM.exists() else None)
    if program is None:
        raise PerfAnalyzerMissing(
            "perf_analyzer is neither on PATH nor in build/perf_analyzer: `make peer` puts it there"
        )
    with tempfile.TemporaryDirectory(prefix="perf_analyzer-") as libraries:
        for name, library in _bundled_libraries():
            Path(libraries, name).symlink_to(library)
        # The caller's folders come first: a container with a perf_analyzer of its own may name its libraries there.
        library_path = [*filter(None, [os.environ.get("LD_LIBRARY_PATH")]), libraries]
        return subprocess.run(
            [program, *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(library_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _bundled_libraries() -> list[tuple[str, Path]]:
    """Those of LIBRARIES that the wheel nvidia-pytriton holds, each with its file."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parents[1] / "nvidia_pytriton.libs"
    return [(name, library) for name, pattern in LIBRARIES.items() for library in folder.glob(pattern)]


def print_peers(peers: Peers) -> None:
    """The table of both clients' medians."""
    ratios = {"first response": peers.first_response, "end": peers.end}
    print(table(("P50", "tritone_client, s", "perf_analyzer, s", "ratio, 99%", "agree"), _rows(ratios)))


def _rows(ratios: dict[str, Ratio]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{ratio.ours_s:.3f}",
            f"{ratio.theirs_s:.3f}",
            f"{ratio.lowest:.2f} to {ratio.highest:.2f}",
            "yes" if ratio.agrees else "no",
        )
        for name, ratio in ratios.items()
    ]
