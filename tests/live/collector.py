"""A collector of OpenTelemetry's spans over HTTP: as protobuf, from the pipeline, and as JSON, from Triton."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """A span; its ids are hexadecimal, and `parent_id` is empty for the first one of a trace."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_at_ns: int
    ended_at_ns: int
    attributes: dict[str, str | float]


class Collector:
    """What was received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[Span]:
        """All of them so far."""
        with self._lock:
            return list(self._spans)

    def add(self, spans: list[Span]) -> None:
        """Keep spans."""
        with self._lock:
            self._spans += spans


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            received.add(_spans(_as_dict(body, self.headers["content-type"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def _as_dict(body: bytes, content_type: str) -> dict[str, Any]:
    """The message in the shape of OTLP's JSON, whose ids are hexadecimal, unlike those of protobuf's own JSON."""
    if content_type == "application/json":
        return json.loads(body)
    message = ExportTraceServiceRequest.FromString(body)
    content = MessageToDict(message)
    for resource, its_message in zip(content["resourceSpans"], message.resource_spans, strict=True):
        for scope, scope_message in zip(resource["scopeSpans"], its_message.scope_spans, strict=True):
            for span, span_message in zip(scope["spans"], scope_message.spans, strict=True):
                span["traceId"], span["spanId"] = span_message.trace_id.hex(), span_message.span_id.hex()
                span["parentSpanId"] = span_message.parent_span_id.hex()
    return content


def _spans(content: dict[str, Any]) -> list[Span]:
    return [
        Span(
            str(_attributes(resource["resource"])["service.name"]),
            span["name"],
            span["traceId"],
            span["spanId"],
            span.get("parentSpanId", ""),
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            _attributes(span),
        )
        for resource in content["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def _attributes(described: dict[str, Any]) -> dict[str, str | float]:
    return {entry["key"]: next(iter(entry["value"].values())) for entry in described.get("attributes", [])}
