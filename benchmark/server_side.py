"""What a server tells of itself while it is under load: Triton's statistics, its metrics, and its processes."""

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc.service_pb2 import (
    ModelConfigRequest,
    ModelStatistics,
    ModelStatisticsRequest,
    ServerMetadataRequest,
)
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritone_client import Tls
from tritone_client.connection import open_async_channel

SAMPLE_PERIOD_S = 0.5
PIPELINE_MODELS = ("spark_tts_stream", "spark_tts")  # either describes the checkpoint
METRICS_TIMEOUT_S = 5
# Triton counts an execution after it has answered: a client that has all its answers may be ahead of the counts.
SETTLING_PERIOD_S = 0.05
MAX_SETTLING_S = 1.0
OWN_METRICS = "tritone_"
GPU_METRICS = ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage")


@dataclass(frozen=True)
class ModelFigures:
    """One model during a measurement, by Triton's statistics; seconds are means over its requests.

    Of a decoupled model (`spark_tts_stream`, `speech_lm`) Triton counts no more than its taking the request.
    """

    model: str
    num_requests: int
    num_failed: int
    mean_batch_size: float
    queue_s: float
    compute_s: float


@dataclass(frozen=True)
class ServerFigures:
    """A server during a measurement.

    Attributes:
        counters: by how much the server's own counters (`tritone_*`) grew; empty where its metrics were out of reach.
        gauges: the means of its own gauges and of those of its GPUs, looked at every SAMPLE_PERIOD_S.
        cpu_cores: how many cores its processes kept busy, on average; None for a server on another machine.
        memory_mb: the most that its processes took, shared pages counted by share; None likewise.
    """

    models: tuple[ModelFigures, ...]
    counters: Mapping[str, float]
    gauges: Mapping[str, float]
    cpu_cores: float | None
    memory_mb: float | None


@dataclass(frozen=True)
class Stage:
    """One step of a request within the server: an execution of `model`, or several that ended between two looks."""

    model: str
    begin_s: float
    end_s: float
    num_executions: int


@dataclass(frozen=True)
class Snapshot:
    """What the server had counted at one moment."""

    taken_at_s: float
    statistics: Mapping[str, ModelStatistics]
    counters: Mapping[str, float]
    cpu_s: float | None


@dataclass
class _Samples:
    gauges: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: list[float] = field(default_factory=list)

    def add_memory(self, memory_mb: float | None) -> None:
        if memory_mb is not None:
            self.memory_mb.append(memory_mb)


class ServerSide:
    """A running server, looked at from outside; as an asynchronous context manager it closes its connection.

    Args:
        url: host and port of the server's gRPC endpoint.
        metrics_url: host and port of its metrics endpoint; None: without metrics.
        tls: speak TLS; None: plain.
    """

    def __init__(self, url: str, metrics_url: str | None, tls: Tls | None = None) -> None:
        self._metrics_url = metrics_url
        self._channel = open_async_channel(url, tls)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._process = find_process(url)

    async def __aenter__(self) -> "ServerSide":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def describe(self) -> dict[str, Any]:
        """Its version and, as far as it says them, its checkpoint and each model's backend and precision.

        Raises:
            grpc.RpcError: it does not answer.
        """
        metadata = await self._stub.ServerMetadata(ServerMetadataRequest())
        models: dict[str, dict[str, str]] = {}
        for name in sorted(await self._statistics()):
            config = (await self._stub.ModelConfig(ModelConfigRequest(name=name))).config
            parameters = {key: value.string_value for key, value in config.parameters.items()}
            models[name] = {"backend": config.backend, **parameters}
        checkpoints = [models[name]["checkpoint"] for name in PIPELINE_MODELS if models.get(name, {}).get("checkpoint")]
        return {
            "server": f"{metadata.name} {metadata.version}",
            "checkpoint": checkpoints[0] if checkpoints else None,
            "precision": {
                name: parameters["precision"] for name, parameters in models.items() if "precision" in parameters
            },
            "is_on_this_machine": self._process is not None,
            "models": models,
        }

    @asynccontextmanager
    async def observed(self, figures: list[ServerFigures]) -> AsyncGenerator[None, None]:
        """Append what the server did within the `with` block to `figures`."""
        samples = _Samples()
        before = await self._snapshot()
        sampler = asyncio.ensure_future(self._sample(samples))
        try:
            yield
        finally:
            sampler.cancel()
            await asyncio.wait([sampler])
            if not samples.memory_mb:  # it was over too soon
                samples.add_memory(await asyncio.to_thread(self._memory_mb))
            after = await self._snapshot()
            figures.append(server_figures(before, after, samples.gauges, samples.memory_mb))

    async def stages(self, period_s: float, stages: list[Stage]) -> None:
        """Append every step that any request makes, until cancelled. One request at a time makes a timeline of it.

        A step is seen when it has ended, at most `period_s` late; how long it took is Triton's own figure. Of a
        decoupled model only the beginning is seen.
        """
        last = await self._statistics()
        while True:
            await asyncio.sleep(period_s)
            latest, now_s = await self._statistics(), time.perf_counter()
            for name, statistics in latest.items():
                before = last.get(name, ModelStatistics())
                num_executions = statistics.execution_count - before.execution_count
                if num_executions:
                    took_s = (_compute_ns(statistics) - _compute_ns(before)) / 1e9
                    stages.append(Stage(name, now_s - took_s, now_s, num_executions))
            last = latest

    async def counter(self, name: str) -> float | None:
        """One of the server's own counters now; None where it has no such one."""
        return (await self._metrics())[0].get(name)

    async def _snapshot(self) -> Snapshot:
        statistics = await self._settled_statistics()
        counters, _ = await self._metrics()
        return Snapshot(time.perf_counter(), statistics, counters, await asyncio.to_thread(self._cpu_s))

    async def _statistics(self) -> dict[str, ModelStatistics]:
        answer = await self._stub.ModelStatistics(ModelStatisticsRequest())
        return {statistics.name: statistics for statistics in answer.model_stats}

    async def _settled_statistics(self) -> dict[str, ModelStatistics]:
        """Those that nothing has been added to for a while, or, of a server that others keep busy, the last ones."""
        statistics = await self._statistics()
        give_up_at_s = time.perf_counter() + MAX_SETTLING_S
        while time.perf_counter() < give_up_at_s:
            await asyncio.sleep(SETTLING_PERIOD_S)
            before, statistics = statistics, await self._statistics()
            if statistics == before:
                break
        return statistics

    async def _metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """The server's own counters, and the gauges that matter; both are empty where there are no metrics."""
        if self._metrics_url is None:
            return {}, {}
        try:
            return parse_metrics(await asyncio.to_thread(_get, f"http://{self._metrics_url}/metrics"))
        except OSError:  # of the metrics alone: the server itself may be reached through another port
            return {}, {}

    async def _sample(self, samples: _Samples) -> None:
        while True:
            for name, value in (await self._metrics())[1].items():
                samples.gauges.setdefault(name, []).append(value)
            samples.add_memory(await asyncio.to_thread(self._memory_mb))
            await asyncio.sleep(SAMPLE_PERIOD_S)

    def _cpu_s(self) -> float | None:
        """What its processes have used; None for a server on another machine."""
        if self._process is None:
            return None
        used_s = 0.0
        for process in _with_children(self._process):
            with contextlib.suppress(psutil.Error):  # it has ended
                spent = process.cpu_times()
                used_s += spent.user + spent.system
        return used_s

    def _memory_mb(self) -> float | None:
        if self._process is None:
            return None
        used_mb = 0.0
        for process in _with_children(self._process):
            with contextlib.suppress(psutil.Error):
                used_mb += process.memory_full_info().pss / 1e6
        return used_mb


def server_figures(
    before: Snapshot, after: Snapshot, gauges: Mapping[str, Sequence[float]], memory_mb: Sequence[float]
) -> ServerFigures:
    """What happened between two snapshots, and the samples taken between them."""
    none = ModelStatistics()
    models = [_model_figures(before.statistics.get(name, none), now) for name, now in after.statistics.items()]
    grown = {name: value - before.counters.get(name, 0.0) for name, value in after.counters.items()}
    duration_s = after.taken_at_s - before.taken_at_s
    cpu_s = None if before.cpu_s is None or after.cpu_s is None else after.cpu_s - before.cpu_s
    return ServerFigures(
        models=tuple(model for model in models if model.num_requests or model.num_failed),
        counters=grown,
        gauges={name: fmean(values) for name, values in gauges.items()},
        cpu_cores=None if cpu_s is None else cpu_s / duration_s,
        memory_mb=max(memory_mb, default=None),
    )


def parse_metrics(text: str) -> tuple[dict[str, float], dict[str, float]]:
    """Counters and gauges by name, summed over their labels, of Prometheus's text format.

    The counters are the server's own, and so are the gauges besides those of GPUs; histograms count by `_sum` and
    `_count`.
    """
    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith((OWN_METRICS, *GPU_METRICS)):
            continue
        for sample in family.samples:
            if sample.name.endswith(("_bucket", "_created")):
                continue
            values = gauges if family.type == "gauge" else counters
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return counters, gauges


def find_process(url: str) -> psutil.Process | None:
    """The process that listens at `url` (host:port), where it is one of this machine that we may look at."""
    host, _, port = url.rpartition(":")
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses} | {"localhost"}
    if host.strip("[]") not in own:
        return None
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port) and connection.pid:
                return psutil.Process(connection.pid)
    return None


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _model_figures(before: ModelStatistics, after: ModelStatistics) -> ModelFigures:
    done, failed = after.inference_stats.success, after.inference_stats.fail
    num_done = done.count - before.inference_stats.success.count
    num_executions = after.execution_count - before.execution_count
    queue_ns = after.inference_stats.queue.ns - before.inference_stats.queue.ns
    num_inferences = after.inference_count - before.inference_count
    return ModelFigures(
        model=after.name,
        num_requests=num_done,
        num_failed=failed.count - before.inference_stats.fail.count,
        mean_batch_size=num_inferences / num_executions if num_executions else 0.0,
        queue_s=queue_ns / num_done / 1e9 if num_done else 0.0,
        compute_s=(_compute_ns(after) - _compute_ns(before)) / num_done / 1e9 if num_done else 0.0,
    )


def _compute_ns(statistics: ModelStatistics) -> int:
    spent = statistics.inference_stats
    return spent.compute_input.ns + spent.compute_infer.ns + spent.compute_output.ns


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=METRICS_TIMEOUT_S) as answer:
        return answer.read().decode()
