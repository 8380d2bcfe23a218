"""What is made of a server's own figures."""

import asyncio
import os
import socket
from collections.abc import Iterator

import grpc.aio
import pytest
from tritonclient.grpc.service_pb2 import ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse

from benchmark.server_side import (
    ModelFigures,
    ServerFigures,
    ServerSide,
    Snapshot,
    find_process,
    parse_metrics,
    server_figures,
)
from tests.scheduled_triton import ScheduledTriton

METRICS = """\
# HELP tritone_lm_tokens_total Tokens that the language model made
# TYPE tritone_lm_tokens_total counter
tritone_lm_tokens_total{model="speech_lm"} 300
# TYPE tritone_requests_total counter
tritone_requests_total{mode="whole"} 2
tritone_requests_total{mode="stream"} 3
# TYPE tritone_lm_running gauge
tritone_lm_running 4
# TYPE tritone_first_audio_seconds histogram
tritone_first_audio_seconds_bucket{le="0.5"} 1
tritone_first_audio_seconds_bucket{le="+Inf"} 2
tritone_first_audio_seconds_sum 1.5
tritone_first_audio_seconds_count 2
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.75
# TYPE nv_inference_count counter
nv_inference_count{model="vocoder"} 7
"""


def test_of_the_metrics_the_servers_own_count_and_those_of_its_gpus() -> None:
    counters, gauges = parse_metrics(METRICS)
    assert counters == {
        "tritone_lm_tokens_total": 300,
        "tritone_requests_total": 5,
        "tritone_first_audio_seconds_sum": 1.5,
        "tritone_first_audio_seconds_count": 2,
    }
    assert gauges == {"tritone_lm_running": 4, "nv_gpu_utilization": 0.75}


def statistics(
    name: str, requests: int, failed: int, executions: int, queue_s: float, infer_s: float
) -> ModelStatistics:
    counted = ModelStatistics(name=name, inference_count=requests, execution_count=executions)
    counted.inference_stats.success.count = requests
    counted.inference_stats.fail.count = failed
    counted.inference_stats.queue.ns = round(queue_s * 1e9)
    counted.inference_stats.compute_infer.ns = round(infer_s * 1e9)
    return counted


def test_a_measurement_is_what_grew_between_two_snapshots() -> None:
    old = statistics("vocoder", requests=10, failed=1, executions=10, queue_s=5.0, infer_s=20.0)
    new = statistics("vocoder", requests=16, failed=3, executions=12, queue_s=5.6, infer_s=23.0)
    idle = statistics("speaker_encoder", requests=4, failed=0, executions=4, queue_s=1.0, infer_s=1.0)
    before = Snapshot(100.0, {"vocoder": old, "speaker_encoder": idle}, {"tritone_lm_tokens_total": 50.0}, 7.0)
    after = Snapshot(110.0, {"vocoder": new, "speaker_encoder": idle}, {"tritone_lm_tokens_total": 350.0}, 22.0)
    figures = server_figures(before, after, {"tritone_lm_running": [1.0, 2.0, 6.0]}, [100.0, 300.0, 200.0])
    assert figures.models == (ModelFigures("vocoder", 6, 2, 3.0, pytest.approx(0.1), pytest.approx(0.5)),)
    assert figures.counters == {"tritone_lm_tokens_total": 300.0}
    assert figures.gauges == {"tritone_lm_running": 3.0}
    assert figures.cpu_cores == 1.5 and figures.memory_mb == 300.0


def test_a_server_elsewhere_has_no_processes_to_look_at() -> None:
    nothing = Snapshot(0.0, {}, {}, None)
    figures = server_figures(nothing, Snapshot(1.0, {}, {}, None), {}, [])
    assert figures.cpu_cores is figures.memory_mb is None and figures.models == ()


class LateTriton(ScheduledTriton):
    """Has counted so many executions whenever it is asked, the last number from then on."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts = counts

    async def ModelStatistics(  # noqa: N802
        self, request: ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> ModelStatisticsResponse:
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return ModelStatisticsResponse(model_stats=[statistics("vocoder", count, 0, count, 0.0, 0.0)])


def test_what_triton_counts_after_its_answer_belongs_to_the_measurement_before() -> None:
    server = LateTriton([9, 10, 10, 13, 14, 14])

    async def measure() -> ServerFigures:
        figures: list[ServerFigures] = []
        async with ServerSide(server.url, None) as side, side.observed(figures):
            pass
        return figures[0]

    try:
        (model,) = asyncio.run(measure()).models
    finally:
        server.stop()
    assert model.num_requests == 4


@pytest.fixture
def listening_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_process_that_listens_is_found(listening_port: int, host: str) -> None:
    process = find_process(f"{host}:{listening_port}")
    assert process is not None and process.pid == os.getpid()


def test_no_process_is_found_where_nobody_listens_or_on_another_machine(listening_port: int) -> None:
    assert find_process("127.0.0.1:1") is None
    assert find_process(f"tts.example.com:{listening_port}") is None
