"""The adapter over a hand-written stand-in for `pb_utils`, which exists only inside Triton's stub."""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from tritone import tracing
from tritone.errors import InvalidInput, Unavailable
from tritone.observations import MetricFamily

FINAL = 1
WAIT_S = 30


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError(Exception):
    INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.arrays = {tensor.name(): tensor.as_numpy().tolist() for tensor in output_tensors or []}
        self.error = error


class Sender:
    def __init__(self) -> None:
        self.sent: list[tuple[InferenceResponse | None, int]] = []
        self.cancelled, self.ended = False, threading.Event()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.ended.is_set(), "sent after the final response"
        self.sent.append((response, flags))
        if flags == FINAL:
            self.ended.set()

    def is_cancelled(self) -> bool:
        return self.cancelled


class Trace:
    def __init__(self, context: str | None) -> None:
        self._context = context

    def get_context(self) -> str | None:
        return self._context


class Request:
    def __init__(self, trace_context: str | None = None, **arrays: list[int]) -> None:
        self._arrays = {name: np.array(values) for name, values in arrays.items()}
        self._trace = Trace(trace_context)
        self.sender = Sender()

    def trace(self) -> Trace:
        return self._trace

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self._arrays.items()]

    def get_response_sender(self) -> Sender:
        return self.sender

    def requested_output_names(self) -> list[str]:
        return ["y"]


class PbMetric:
    def __init__(self, family: "PbMetricFamily", labels: dict[str, str], buckets: list[float] | None) -> None:
        assert (buckets is not None) == (family.kind == "HISTOGRAM")
        self._family, self._key, self._buckets = family, tuple(labels.items()), buckets

    def increment(self, amount: float) -> None:
        self._change("increment", amount)

    def set(self, value: float) -> None:
        self._change("set", value)

    def observe(self, value: float) -> None:
        self._change("observe", value)

    def _change(self, operation: str, value: float) -> None:
        if PbMetricFamily.error is not None:
            raise PbMetricFamily.error
        PbMetricFamily.changes.append((self._family.name, self._key, operation, value))


class PbMetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "COUNTER", "GAUGE", "HISTOGRAM"
    error: Exception | None = None
    changes: ClassVar[list[tuple[str, tuple[tuple[str, str], ...], str, float]]] = []
    names: ClassVar[list[str]] = []

    def __init__(self, name: str, description: str, kind: str) -> None:
        if PbMetricFamily.error is not None:
            raise PbMetricFamily.error
        self.name, self.kind = name, kind
        PbMetricFamily.names.append(name)

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> PbMetric:  # noqa: N802
        return PbMetric(self, labels, buckets)


@pytest.fixture
def metric_family(monkeypatch: pytest.MonkeyPatch) -> type[PbMetricFamily]:
    """The server's side of the metrics, empty."""
    monkeypatch.setattr(PbMetricFamily, "error", None)
    monkeypatch.setattr(PbMetricFamily, "changes", [])
    monkeypatch.setattr(PbMetricFamily, "names", [])
    return PbMetricFamily


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`tritone.triton`, imported as inside the stub."""
    names = {
        "Tensor": Tensor,
        "TritonError": TritonError,
        "InferenceResponse": InferenceResponse,
        "MetricFamily": PbMetricFamily,
    }
    fake = SimpleNamespace(**names, TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    import tritone.triton as module

    monkeypatch.setattr(module, "CANCELLED_ANSWER_DELAY_S", 0.01)
    yield module
    sys.modules.pop("tritone.triton")


def rows_of(inputs: dict[str, np.ndarray]) -> list[int]:
    if (inputs["x"] < 0).any():
        raise InvalidInput("x must not be negative")
    return inputs["x"].tolist()


def test_rows_of_all_requests_run_together_and_a_bad_one_fails_alone(triton: ModuleType) -> None:
    runs: list[list[int]] = []

    def double(rows: list[int]) -> list[np.ndarray]:
        runs.append(rows)
        return [np.array(2 * row) for row in rows]

    requests = [Request(x=[1, 2]), Request(x=[-1]), Request(x=[3])]
    first, bad, last = triton.respond_in_batch(requests, rows_of, double, "y")
    assert runs == [[1, 2, 3]]
    assert (first.arrays, last.arrays) == ({"y": [2, 4]}, {"y": [6]})
    assert (str(bad.error), bad.error.code) == ("x must not be negative", "INVALID_ARG")


def test_an_engine_that_fails_answers_every_good_request_without_its_details(triton: ModuleType) -> None:
    def fail(rows: list[int]) -> list[np.ndarray]:
        raise RuntimeError("a detail for the log")

    good, bad = triton.respond_in_batch([Request(x=[1]), Request(x=[-1])], rows_of, fail, "y")
    assert good.error.code == "INTERNAL" and "detail" not in str(good.error)
    assert bad.error.code == "INVALID_ARG"


def served(triton: ModuleType, answer: Any, decoupled: bool, cancelled: bool = False) -> Sender:
    policy = '"model_transaction_policy": {"decoupled": true}' if decoupled else '"parameters": {}'
    loop = triton.RequestLoop({"model_config": f"{{{policy}}}"})
    request = Request(x=[1])
    request.sender.cancelled = cancelled
    loop.serve(request, answer)
    assert request.sender.ended.wait(WAIT_S)
    return request.sender


async def two_pieces(inputs: dict[str, np.ndarray]) -> AsyncGenerator[dict[str, np.ndarray], None]:
    for factor in (1, 10):
        yield {"y": factor * inputs["x"], "not requested": inputs["x"]}


def test_a_stream_sends_each_piece_and_an_empty_final_response(triton: ModuleType) -> None:
    sent = served(triton, two_pieces, decoupled=True).sent
    assert [(response.arrays if response else None, flags) for response, flags in sent] == [
        ({"y": [1]}, 0),
        ({"y": [10]}, 0),
        (None, FINAL),
    ]


def test_a_unary_model_sends_its_one_response_as_the_final_one(triton: ModuleType) -> None:
    async def one_piece(inputs: dict[str, np.ndarray]) -> AsyncGenerator[dict[str, np.ndarray], None]:
        yield {"y": inputs["x"]}

    ((response, flags),) = served(triton, one_piece, decoupled=False).sent
    assert response is not None
    assert (response.arrays, flags) == ({"y": [1]}, FINAL)


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidInput("no"), "INVALID_ARG"), (Unavailable("later"), "UNAVAILABLE"), (KeyError("k"), "INTERNAL")],
)
def test_a_failed_request_ends_with_its_error(triton: ModuleType, error: Exception, code: str) -> None:
    async def fail(inputs: dict[str, np.ndarray]) -> AsyncGenerator[dict[str, np.ndarray], None]:
        yield {"y": inputs["x"]}
        raise error

    (_, flags), (last, last_flags) = served(triton, fail, decoupled=True).sent
    assert last is not None and last.error is not None
    assert (flags, last_flags, last.error.code) == (0, FINAL, code)


def test_a_cancelled_request_is_ended_and_its_work_closed(triton: ModuleType) -> None:
    closed = threading.Event()

    async def endless(inputs: dict[str, np.ndarray]) -> AsyncGenerator[dict[str, np.ndarray], None]:
        try:
            while True:
                await asyncio.sleep(0.01)
                yield {"y": inputs["x"]}
        finally:
            closed.set()

    last, _ = served(triton, endless, decoupled=True, cancelled=True).sent[-1]
    assert last is not None and last.error is not None and last.error.code == "CANCELLED"
    assert closed.is_set()


def test_every_metric_keeps_its_family_and_only_changes_are_sent(
    triton: ModuleType, metric_family: type[PbMetricFamily]
) -> None:
    counters, gauge = MetricFamily("n_total", "N", "counter"), MetricFamily("g", "G", "gauge")
    histogram = MetricFamily("h_seconds", "H", "histogram", (1, 2))
    for mode in ("a", "b"):
        metric = triton.Metric(counters, {"mode": mode})
        metric.add(0)
        metric.add(2)
    level = triton.Metric(gauge)
    for value in (0, 3, 3, 0):
        level.set(value)
    triton.Metric(histogram).observe(1.5)
    assert metric_family.names == ["n_total", "n_total", "g", "h_seconds"]
    assert metric_family.changes == [
        ("n_total", (("mode", "a"),), "increment", 2),
        ("n_total", (("mode", "b"),), "increment", 2),
        ("g", (), "set", 3),
        ("g", (), "set", 0),
        ("h_seconds", (), "observe", 1.5),
    ]


@pytest.mark.parametrize("fails_from_the_start", [True, False])
def test_a_metric_that_fails_is_given_up_and_told_once(
    triton: ModuleType,
    metric_family: type[PbMetricFamily],
    caplog: pytest.LogCaptureFixture,
    fails_from_the_start: bool,
) -> None:
    if fails_from_the_start:
        metric_family.error = RuntimeError("no metrics here")
    metric = triton.Metric(MetricFamily("n_total", "N", "counter"))
    metric_family.error = RuntimeError("no metrics here")
    metric.add(1)
    metric.observe(1)
    metric.set(1)
    assert [record.getMessage() for record in caplog.records] == ["the metric n_total fails and is given up"]


def test_a_requests_work_belongs_to_its_trace(triton: ModuleType) -> None:
    async def told(inputs: dict[str, np.ndarray]) -> AsyncGenerator[dict[str, np.ndarray], None]:
        await asyncio.sleep(0)
        yield {"y": np.array([dict(tracing.metadata()).get("traceparent", "none")])}

    loop = triton.RequestLoop({"model_config": "{}"})
    requests = [Request('{"traceparent":"00-12-34-01"}'), Request(), Request('{"traceparent":"00-56-78-01"}')]
    for request in requests:
        loop.serve(request, told)
    answers = []
    for request in requests:
        assert request.sender.ended.wait(WAIT_S)
        ((response, _),) = request.sender.sent
        answers += response.arrays["y"]
    assert answers == ["00-12-34-01", "none", "00-56-78-01"]
