"""Traces of jobs, as a collector gets them from a real worker; a worker whose collector is away works all the same."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.end_to_end.processes import end, foxes, running, until
from tests.factories import look
from tests.scraping import free_address
from tests.worker.contexts import submit

ROWS = [*foxes(3), {"prompt": "zanzibar fault:quote"}, {"prompt": "explicit nudity"}]


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP; `bodies` are the requests as they came."""

    bodies: list[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        """Each span with the attributes of its process."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            (values(resource.resource.attributes), span)
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector(("127.0.0.1", 0), _Handler) as server:
        server.bodies = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield server
        server.shutdown()


def worked(settings: Settings, engine: Engine, folder: Path) -> str:
    """Let a worker work until no job is left and stop it; returns its log."""
    given = settings.model_copy(update={"traces": "on", "device": "cpu"})
    submit(given, engine, folder, ROWS, clip_score="off", watermark="off", max_attempts="1")
    with stubbed(folder), running(given, "scheduler", "worker") as (_, worker):
        until(lambda: not look(engine, "SELECT 1 FROM jobs WHERE finished_at IS NULL"))
        began = time.monotonic()
        assert end(worker) == 0
        assert time.monotonic() - began < 8
    return (settings.data_dir / "processes.log").read_text()


def test_a_job_has_one_trace_from_its_claim_to_its_upload(
    settings: Settings, engine: Engine, tmp_path: Path, collector: Collector
) -> None:
    worked(settings, engine, tmp_path)
    spans = collector.spans()
    assert {resource["service.name"] for resource, _ in spans} == {"nightmill-worker"}
    roots = {span.trace_id: span for _, span in spans if not span.parent_span_id}
    children = defaultdict(dict)
    for _, span in spans:
        if span.parent_span_id:
            root = roots[span.trace_id]
            assert span.parent_span_id == root.span_id
            assert root.start_time_unix_nano <= span.start_time_unix_nano
            assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
            children[span.trace_id][span.name] = span
    jobs = {row["id"]: row for row in look(engine, "SELECT * FROM jobs")}
    assert {values(root.attributes)["nightmill.job"] for root in roots.values()} == jobs.keys()
    outcomes = defaultdict(list)
    for trace, root in roots.items():
        told = values(root.attributes)
        assert jobs[told["nightmill.job"]]["state"] == told["nightmill.outcome"]
        outcomes[told["nightmill.outcome"]].append(set(children[trace]))
    ended_early = {"claim", "prompt_filter"}
    assert outcomes["blocked"] == [ended_early]
    assert outcomes["failed"] == [ended_early | {"render"}]
    whole = ended_early | {
        "render",
        "safety",
        "perceptual_hash",
        "encode",
        "iscc_code",
        "verify_watermark",
        "upload",
        "complete",
    }
    assert outcomes["done"] == [whole] * 3
    assert not any(b"zanzibar" in body or b"fox" in body for body in collector.bodies)


def test_the_sampler_decides_which_jobs_are_traced(
    settings: Settings, engine: Engine, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    worked(settings, engine, tmp_path)
    assert collector.spans() == []


def test_a_collector_that_is_away_stops_no_worker(
    settings: Settings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{free_address()}")
    worked(settings, engine, tmp_path)
    assert len(look(engine, "SELECT 1 FROM images")) == 3
