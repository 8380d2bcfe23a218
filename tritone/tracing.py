"""The stages of a request as OpenTelemetry spans, beside Triton's own and in the same trace as the caller's.

Off unless OTLP_URL names a collector; then nothing of OpenTelemetry is imported and nothing is measured. Triton makes a
span for every request to a model and passes on the trace that a client's `traceparent` names; the pipeline's spans are
children of Triton's, and the models that it calls are told, so that theirs are in the same trace, too.
"""

import functools
import importlib
import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

OTLP_URL_VARIABLE = "OTLP_URL"  # a collector for OTLP over HTTP, such as http://collector:4318
SERVICE_NAME = "tritone"
TRACES_PATH = "/v1/traces"
EXPORT_INTERVAL_MS = 1000
_EXPORTER_MODULE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

# of the request that a task works on, as in the W3C's header; None: it is not traced
_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


def server_arguments() -> list[str]:
    """What makes tritonserver trace every request; nothing where tracing is off.

    Raises:
        ImportError: the pipeline could not trace its part.
    """
    otlp_url = os.environ.get(OTLP_URL_VARIABLE)
    if not otlp_url:
        return []
    try:
        importlib.import_module(_EXPORTER_MODULE)
    except ImportError as error:
        raise ImportError(f"{OTLP_URL_VARIABLE} needs `pip install 'tritone[tracing]'`: {error}") from error
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=1",
        f"opentelemetry,url={_traces_url(otlp_url)}",
        f"opentelemetry,resource=service.name={SERVICE_NAME}",
        f"opentelemetry,bsp_schedule_delay={EXPORT_INTERVAL_MS}",
    )
    return [f"--trace-config={setting}" for setting in settings]


def join(traceparent: str | None) -> None:
    """The current task works on a request of this trace; None: the request is not traced."""
    _traceparent.set(traceparent)


def metadata() -> tuple[tuple[str, str], ...]:
    """What a call to another model has to carry to be in the same trace."""
    traceparent = _traceparent.get()
    return () if traceparent is None else (("traceparent", traceparent),)


class Trace(Protocol):
    """A request's span and, in it, one for each of its stages."""

    def stage(self, name: str) -> None:
        """A stage begins, and with that the one before it ends."""

    def event(self, name: str) -> None:
        """Something happened."""

    def end(self, attributes: Mapping[str, str | float]) -> None:
        """The request has ended."""


class NoTrace:
    """Of a request that is not traced."""

    def stage(self, name: str) -> None:
        """Heeds nothing."""

    event = stage

    def end(self, attributes: Mapping[str, str | float]) -> None:
        """Heeds nothing."""


def begin(name: str, attributes: Mapping[str, str]) -> Trace:
    """Begin the span of the current task's request; calls to other models belong to it from now on."""
    traceparent, otlp_url = _traceparent.get(), os.environ.get(OTLP_URL_VARIABLE)
    if traceparent is None or not otlp_url:
        return NoTrace()
    trace = _OpenTelemetryTrace(_tracer(otlp_url), traceparent, name, attributes)
    join(trace.traceparent)
    return trace


class _OpenTelemetryTrace:
    def __init__(self, tracer: Any, parent: str, name: str, attributes: Mapping[str, str]) -> None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        self._span = tracer.start_span(name, context, attributes=attributes)
        self._within = set_span_in_context(self._span)
        self._stage: Any = None

    @property
    def traceparent(self) -> str:
        """Of the request's span."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def stage(self, name: str) -> None:
        self._end_stage()
        self._stage = self._tracer.start_span(name, self._within)

    def event(self, name: str) -> None:
        self._span.add_event(name)

    def end(self, attributes: Mapping[str, str | float]) -> None:
        self._end_stage()
        self._span.set_attributes(attributes)
        self._span.end()

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._stage.end()


@functools.cache
def _tracer(otlp_url: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME as SERVICE_NAME_KEY
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(_traces_url(otlp_url))
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME_KEY: SERVICE_NAME}))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_INTERVAL_MS))
    return provider.get_tracer(SERVICE_NAME)


def _traces_url(otlp_url: str) -> str:
    return otlp_url.rstrip("/") + TRACES_PATH
