"""Traces and metrics, as a collector receives them over OTLP."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import URL

from nutshell.app import trace_statements
from nutshell.tests.service import (
    TOKEN,
    Service,
    Variables,
    library_checkout,
    migrate,
    plain_environment,
)


class Collector(ThreadingHTTPServer):
    """Keeps what it receives, and answers as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.received: dict[str, list[bytes]] = {}


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 (its name in the base class)
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


@pytest.mark.slow
def test_trace_of_a_request_has_its_statements(empty_url: URL, collector: Collector) -> None:
    if empty_url.get_backend_name() != "sqlite":
        migrate(empty_url)
    variables: Variables = {
        "DATABASE_URL": empty_url,
        "API_TOKEN": TOKEN,
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
        "OTEL_SERVICE_NAME": "library",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }
    # As the caller of the service began it: W3C Trace Context.
    caller = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    with Service(variables) as service, service.client() as client:
        secret = {"label": "a secret label"}
        assert client.post("/shelves", json=secret, headers=caller).status_code == 201
    # It sends what is left when it stops.
    spans = []
    for body in collector.received["/v1/traces"]:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert names["service.name"] == "library"
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    ours = [span for span in spans if span.trace_id.hex() == "ab" * 16]
    (request,) = (span for span in ours if span.parent_span_id.hex() == "cd" * 8)
    assert request.name == "POST /shelves"
    texts = {
        attribute.value.string_value
        for span in ours
        for attribute in span.attributes
        if attribute.key in ("db.statement", "db.query.text")
    }
    assert any(text.startswith("INSERT INTO shelves") for text in texts), texts
    assert not any("secret" in str(span) for span in ours)
    assert b"http.server.request.duration" in b"".join(collector.received["/v1/metrics"])
    assert ExportMetricsServiceRequest.FromString(collector.received["/v1/metrics"][0])
    assert "/v1/logs" not in collector.received


@pytest.mark.slow
def test_without_the_variables_nothing_is_loaded(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, main\n"
        "from nutshell.app import lifespan\n"
        "async def start():\n"
        "    async with lifespan(main.app): pass\n"
        "asyncio.run(start())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=library_checkout(),
        env=plain_environment(DATABASE_URL=f"sqlite:///{tmp_path}/test.db"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"  # after the log


@pytest.mark.parametrize(("variable", "traced"), [(None, 0), ("false", 0), ("true", 1)])
def test_statements_are_traced_only_where_the_environment_asks(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, traced: int
) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(
        SQLAlchemyInstrumentor, "instrument", lambda _, **given: calls.append(given)
    )
    monkeypatch.delenv("FASTAPI_OTEL_AUTO_CONFIGURE", raising=False)
    if variable is not None:
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", variable)
    trace_statements()
    assert len(calls) == traced
