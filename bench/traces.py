"""What OpenTelemetry traces cost a worker for each image, with one job in a hundred traced."""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from jobs.job_dataclasses import Job, JobId, Lane
from worker.monitoring.job_traces import JobTraces

SHARE = 0.01
STAGES = (
    "prompt_filter",
    "safety",
    "clip_score",
    "watermark",
    "encode",
    "verify_watermark",
    "upload",
    "complete",
)
_JOBS = 2000
_AT_ONCE = 32


def traced_image_s(lane: Lane, job: Job, rounds: int) -> float:
    """Return the CPU seconds of traces per image, exports included: they are the SDK's own, and thrown away."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased  # noqa: PLC0415

    provider = TracerProvider(sampler=TraceIdRatioBased(SHARE))
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    traces = JobTraces(provider.get_tracer("bench"), provider)
    jobs = [replace(job, id=JobId(number)) for number in range(_JOBS)]
    found = median(_seconds(traces, lane, jobs) for _ in range(rounds)) / _JOBS
    provider.shutdown()
    return found


def _seconds(traces: JobTraces, lane: Lane, jobs: Sequence[Job]) -> float:
    began = time.process_time()
    for place in range(0, len(jobs), _AT_ONCE):
        claimed = jobs[place : place + _AT_ONCE]
        traces.claimed(lane, claimed, "bench:1", time.time_ns())
        for job in claimed:
            traces.entered(job)
        traces.rendered(claimed)
        for name in STAGES:
            for job in claimed:
                traces.stage(name, [job], time.time_ns())
        traces.ended((job.id for job in claimed), "done")
    return time.process_time() - began
