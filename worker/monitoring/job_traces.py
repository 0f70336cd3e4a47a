"""OpenTelemetry traces of jobs: a span from claim to end, in it one for the claim, each stage and the completion.

Whether a job is traced is decided when it is claimed, by the sampler of the SDK. A job that isn't costs no more than
that. No span has a prompt or the text of an error.
"""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

from jobs.job_dataclasses import Job, JobId, Lane
from models.optional_packages import require

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

FLUSH_S = 2.0
"""How long a child that ends may take to send its last spans."""

_SERVICE = {"service.name": "nightmill-worker"}


@dataclass
class _Traced:
    """The span of a job, and when the job entered the device batch."""

    span: "Span"
    entered_ns: int = 0


class JobTraces:
    """Traces of the jobs that this process has claimed; without a tracer, of none. Thread-safe."""

    def __init__(self, tracer: "Tracer | None" = None, provider: Any = None) -> None:
        self._tracer, self._provider = tracer, provider
        self._traced: dict[JobId, _Traced] = {}
        self._lock = threading.Lock()

    @classmethod
    def by_environment(cls) -> Self:
        """Send spans as the SDK's `OTEL_…` variables say; MissingPackagesError without the packages."""
        require("otel")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra, and slow to import
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        version = {"service.version": metadata.version("nightmill")}
        named = {} if "OTEL_SERVICE_NAME" in os.environ else _SERVICE
        provider = TracerProvider(resource=Resource.create(named | version), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider.get_tracer("nightmill"), provider)

    def claimed(self, lane: Lane, jobs: Sequence[Job], worker: str, began_ns: int) -> None:
        """Begin the spans of jobs whose claim began at that time."""
        if self._tracer is None:
            return
        from opentelemetry.context import Context  # noqa: PLC0415 - an extra

        for job in jobs:
            span = self._tracer.start_span("job", context=Context(), start_time=began_ns)
            if span.is_recording():
                span.set_attributes(_attributes(lane, job, worker))
                with self._lock:
                    self._traced[job.id] = _Traced(span)
                self._child(span, "claim", began_ns)

    def entered(self, job: Job) -> None:
        """Note that the job has entered the device batch."""
        if traced := self._traced.get(job.id):
            traced.entered_ns = time.time_ns()

    def rendered(self, jobs: Iterable[Job]) -> None:
        """Add the spans of jobs that leave the device batch."""
        for job in jobs:
            if (traced := self._traced.get(job.id)) and traced.entered_ns:
                self._child(traced.span, "render", traced.entered_ns)

    def stage(self, name: str, jobs: Iterable[Job], began_ns: int) -> None:
        """Add the spans of a stage, or another step, that these jobs have just gone through together."""
        if self._traced:
            for job in jobs:
                if traced := self._traced.get(job.id):
                    self._child(traced.span, name, began_ns)

    def ended(self, ids: Iterable[JobId], outcome: str) -> None:
        """End the spans of jobs; `outcome` is done, failed, blocked, returned or released."""
        if not self._traced:
            return
        for job_id in ids:
            with self._lock:
                traced = self._traced.pop(job_id, None)
            if traced is not None:
                traced.span.set_attribute("nightmill.outcome", outcome)
                if outcome == "failed":
                    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

                    traced.span.set_status(Status(StatusCode.ERROR))
                traced.span.end()

    def end_session(self) -> None:
        """End the spans of all jobs that are left: they were given back, or their leases were lost."""
        self.ended(list(self._traced), "released")

    def close(self) -> None:
        """Send what is left, for at most `FLUSH_S` seconds: the exporter itself tries for longer."""
        if self._provider is not None:
            flushing = threading.Thread(target=self._provider.force_flush, daemon=True)
            flushing.start()
            flushing.join(FLUSH_S)

    def _child(self, parent: "Span", name: str, began_ns: int) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - an extra

        assert self._tracer is not None
        self._tracer.start_span(name, context=set_span_in_context(parent), start_time=began_ns).end()


def _attributes(lane: Lane, job: Job, worker: str) -> dict[str, Any]:
    return {
        "nightmill.job": job.id,
        "nightmill.attempt": job.attempt,
        "nightmill.lease": str(job.lease),
        "nightmill.batch": lane.batch,
        "nightmill.lane": lane.id,
        "nightmill.model": lane.model,
        "nightmill.worker": worker,
        "nightmill.steps": job.steps,
    }
