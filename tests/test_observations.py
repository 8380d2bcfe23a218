"""What is counted of a request, with a metrics endpoint that is a table, and what of it the pipeline says."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.test_pipeline import SENTENCE, ScriptedModels, pipeline, request
from tritone import tracing
from tritone.errors import InvalidInput, Unavailable
from tritone.observations import MetricFamily, Observation, Observations, Stage
from tritone.spark_tts.prompts import Prompts
from tritone.spark_tts.request import ReferenceVoice
from tritone.voices import TokenVoice


@dataclass
class Series:
    """One series of a table of metrics."""

    value: float = 0.0
    observed: list[float] = field(default_factory=list)
    num_changes: int = 0

    def add(self, amount: float) -> None:
        self.value += amount
        self.num_changes += 1

    def set(self, value: float) -> None:
        self.value = value
        self.num_changes += 1

    def observe(self, value: float) -> None:
        self.observed.append(value)
        self.num_changes += 1


class Recorder(Observation):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.retries = 0
        self.lookups: list[bool] = []

    def reached(self, stage: Stage) -> None:
        if stage not in self.stages:
            self.stages.append(stage)

    def retried(self) -> None:
        self.retries += 1

    def looked_up_voice(self, found: bool) -> None:
        self.lookups.append(found)


class Table:
    """Every series, by its name without the prefix and its labels but the mode."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.observations = Observations("stream", self.new)

    def new(self, family: MetricFamily, labels: Mapping[str, str]) -> Series:
        assert labels["mode"] == "stream"
        key = " ".join([family.name.removeprefix("tritone_"), *(labels[name] for name in labels if name != "mode")])
        assert key not in self.series
        self.series[key] = Series()
        return self.series[key]

    def counted(self) -> dict[str, float]:
        """What is not 0."""
        return {key: series.value for key, series in self.series.items() if series.value}

    def observed(self, name: str) -> list[float]:
        return self.series[name].observed


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, as the only element."""
    now = [100.0]
    monkeypatch.setattr("tritone.observations.time.monotonic", lambda: now[0])
    yield now


def speak(request: Observation) -> None:
    """All that a request with one piece of audio goes through."""
    request.started("reference")
    for stage in Stage:
        request.reached(stage)
    request.sent(2.0)


def test_a_request_is_timed_from_its_beginning(table: Table, clock: list[float]) -> None:
    with table.observations.request() as request:
        clock[0] += 0.3
        speak(request)
        clock[0] += 0.6
        request.sent(1.0)
        clock[0] += 0.3
    assert table.observed("first_audio_seconds") == pytest.approx([0.3])
    assert table.observed("real_time_factor") == pytest.approx([1.2 / 3])
    assert table.counted() == {"requests_total reference ok": 1, "audio_seconds_total": 3.0}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidInput("no"), "invalid"),
        (Unavailable("later"), "unavailable"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (KeyError("k"), "error"),
    ],
)
def test_every_end_is_counted_and_goes_on(table: Table, error: BaseException, outcome: str) -> None:
    with pytest.raises(type(error)), table.observations.request():
        raise error
    with pytest.raises(type(error)), table.observations.request() as request:
        speak(request)
        raise error
    assert table.counted() == {
        f"requests_total unknown {outcome}": 1,
        f"requests_total reference {outcome}": 1,
        "audio_seconds_total": 2.0,
    }
    assert not table.observed("real_time_factor")  # a part of a request says nothing about the whole


def test_requests_wait_until_their_first_window_is_decoded(table: Table) -> None:
    def running_and_waiting() -> tuple[float, float]:
        return table.series["requests_running"].value, table.series["requests_waiting"].value

    with table.observations.request() as first, table.observations.request() as second:
        first.reached(Stage.FIRST_TOKENS)
        assert running_and_waiting() == (0, 0)  # not admitted yet
        first.started("tokens")
        second.started("controlled")
        assert running_and_waiting() == (2, 2)
        for stage in (Stage.FIRST_WINDOW, Stage.REMAINDER, Stage.FIRST_TOKENS, Stage.FIRST_WINDOW, Stage.REMAINDER):
            first.reached(stage)  # later windows go through the stages again
        assert running_and_waiting() == (2, 1)
    assert running_and_waiting() == (0, 0)
    with suppress(Unavailable), table.observations.request():
        raise Unavailable("no place")
    assert running_and_waiting() == (0, 0)


def test_what_the_pipeline_tells_besides(table: Table) -> None:
    with table.observations.request() as request:
        request.started("reference")
        for found in (False, True, True):
            request.looked_up_voice(found)
        request.retried()
    assert table.counted() == {
        "requests_total reference ok": 1,
        "voice_cache_lookups_total hit": 2,
        "voice_cache_lookups_total miss": 1,
        "run_on_retries_total": 1,
    }


def test_a_request_costs_few_messages_however_many_tokens_it_has(table: Table) -> None:
    with table.observations.request() as request:
        speak(request)
        for _ in range(1000):
            request.reached(Stage.FIRST_TOKENS)  # with each delivery of the language model
    assert sum(series.num_changes for series in table.series.values()) <= 10


@pytest.fixture(scope="module")
def prompts(tiny_checkpoint: Path) -> Prompts:
    return Prompts(tiny_checkpoint / "LLM" / "tokenizer.json")


@pytest.mark.parametrize("mode", ["whole", "stream"])
def test_the_pipeline_tells_each_stage_in_order_and_known_voices(prompts: Prompts, mode: str) -> None:
    speaking = pipeline(prompts, ScriptedModels(prompts))

    async def say(recorder: Recorder) -> None:
        voice = request(ReferenceVoice(np.ones(32000, np.float32), None), text=SENTENCE)
        if mode == "whole":
            await speaking.whole(voice, recorder)
        else:
            async for _ in speaking.stream(voice, recorder):
                assert recorder.stages[-1] is Stage.REMAINDER  # told before its audio goes out

    async def say_twice() -> list[Recorder]:
        recorders = [Recorder(), Recorder()]
        for recorder in recorders:
            await say(recorder)
        return recorders

    first, second = asyncio.run(say_twice())
    for recorder in (first, second):
        # that it has begun is told by the one who admitted it
        assert recorder.stages == [Stage.PREFILL, Stage.FIRST_TOKENS, Stage.FIRST_WINDOW, Stage.REMAINDER]
        assert recorder.retries == 0
    assert (first.lookups, second.lookups) == ([False], [True])


def test_each_further_attempt_of_a_run_on_is_told(prompts: Prompts) -> None:
    models, recorder = ScriptedModels(prompts, num_semantic=5000, repeat=3), Recorder()
    asyncio.run(pipeline(prompts, models).whole(request(TokenVoice(np.arange(32, dtype=np.int32))), recorder))
    assert (len(models.lm_requests), recorder.retries) == (3, 2)


def test_without_a_collector_nothing_of_opentelemetry_is_imported() -> None:
    program = """
import sys
from tritone import tracing
from tritone.observations import Observations
import tritone.spark_tts.service
tracing.join("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
with Observations().request() as request:
    request.started("tokens")
print([name for name in sys.modules if name.startswith("opentelemetry")], tracing.server_arguments())
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[] []\n"


def test_a_collector_without_the_packages_for_it_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tracing.OTLP_URL_VARIABLE, "http://localhost:4318/")
    assert "--trace-config=opentelemetry,url=http://localhost:4318/v1/traces" in tracing.server_arguments()
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ImportError, match=r"OTLP_URL needs `pip install 'tritone\[tracing\]'`"):
        tracing.server_arguments()
