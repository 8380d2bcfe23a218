"""The load benchmark on a real server: what its clients count and what the server counts are the same work."""

import asyncio
from pathlib import Path

import pytest

from benchmark.results import Run, RunSettings
from benchmark.run import LM_TOKENS, measure_run
from benchmark.worklists import load_worklist
from build_engines.checkpoint import Checkpoint
from tritone.serve import TritonServer

NUM_REQUESTS = 4
TOKENS = 60
SPOKEN_S = TOKENS / 50


@pytest.fixture(scope="module")
def run(server: TritonServer) -> Run:
    settings = RunSettings(concurrency=(1, 2), rates_per_s=(2.0,), num_requests=NUM_REQUESTS, fixed_tokens=TOKENS)
    metrics_url = f"{server.host}:{server.metrics_port}"
    cloned = [utterance for utterance in load_worklist("demo") if utterance.kind == "cloned"]
    return asyncio.run(measure_run(server.grpc_url, metrics_url, settings, "demo", cloned))


def test_every_request_of_every_level_is_the_work_that_was_asked_for(run: Run) -> None:
    levels = [(measurement.mode, measurement.level) for measurement in run.measurements]
    assert levels == [(mode, level) for mode in ("stream", "whole") for level in ("1", "2", "2/s")]
    for measurement in run.measurements:
        assert measurement.figures.errors == {} and measurement.is_complete
        assert [request.audio_s for request in measurement.requests] == pytest.approx([SPOKEN_S] * NUM_REQUESTS)
        assert all(len(request.pieces) > 1 for request in measurement.requests) == (measurement.mode == "stream")


def test_the_server_counts_the_same_work(run: Run) -> None:
    for measurement in run.measurements:
        server = measurement.server
        assert server is not None
        requests_of = {model.model: model.num_requests for model in server.models}
        assert requests_of["spark_tts_stream" if measurement.mode == "stream" else "spark_tts"] == NUM_REQUESTS
        assert requests_of["speech_lm"] == NUM_REQUESTS
        assert requests_of["vocoder"] >= NUM_REQUESTS * (2 if measurement.mode == "stream" else 1)
        assert not any(model.num_failed for model in server.models)
        assert server.counters[LM_TOKENS] == NUM_REQUESTS * TOKENS
        assert server.cpu_cores is not None and server.cpu_cores > 0.1
        assert server.memory_mb is not None and server.memory_mb > 100


def test_the_server_says_what_it_is(run: Run, demo_checkpoint: Path) -> None:
    assert run.environment["checkpoint"] == Checkpoint.open(demo_checkpoint).fingerprint()
    assert run.environment["server"].startswith("triton 2.")
    assert run.environment["precision"]["speech_lm"] == "int8"
    assert run.environment["is_on_this_machine"]


def test_a_request_is_followed_through_the_server(run: Run) -> None:
    assert run.timeline is not None
    timeline = run.timeline
    models = [stage.model for stage in sorted(timeline.stages, key=lambda stage: stage.end_s)]
    assert {"spark_tts_stream", "speaker_encoder", "semantic_encoder", "speech_lm", "vocoder"} <= set(models)
    first = {model: min(stage.begin_s for stage in timeline.stages if stage.model == model) for model in models}
    # a step is seen a little late, so that the first window's may lie behind the first audio
    assert first["semantic_encoder"] < first["vocoder"] < timeline.request.ended_at_s
    assert timeline.tokens[-1][1] == TOKENS
    assert timeline.request.audio_s == pytest.approx(SPOKEN_S)
