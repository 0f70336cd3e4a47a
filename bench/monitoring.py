"""What metrics and OpenTelemetry traces cost a worker for each image."""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from bench.harness.results import Figure, at_most
from jobs.job_dataclasses import Job, JobId, Lane
from jobs.monitoring import metrics
from jobs.monitoring.metric_types import collect
from worker.monitoring.count_messages import CountMessage
from worker.monitoring.job_traces import JobTraces

SHARE = 0.01
"""Of the jobs, how many are traced."""
STAGES = (
    "prompt_filter",
    "safety",
    "clip_score",
    "perceptual_hash",
    "watermark",
    "encode",
    "verify_watermark",
    "upload",
    "complete",
)
_JOBS = 2000
_AT_ONCE = 32
_STEPS = 4
"""Steps of the device batch per image: 50 of 16 images at once are 3."""
_A_MESSAGE = 2
"""Images in half a second: 4.6 a second on one H200."""


def measure_monitoring(lane: Lane, job: Job, images_per_s: float, rounds: int) -> dict[str, Figure]:
    """Measure microseconds of CPU per image, and their share of an image at the worker's speed."""
    counted_s, traced_s = counted_image_s(rounds), traced_image_s(lane, job, rounds)
    against = f"an image of this worker, 64 px, 10 steps: {1000 / images_per_s:.3g} ms"
    traced = f"OpenTelemetry, {SHARE:.0%} of the jobs traced"
    return {
        "metrics_us": Figure(1e6 * counted_s, "us CPU/image", "counting, and telling the parent process"),
        "metrics_of_image": Figure(counted_s * images_per_s, "ratio", against, at_most(0.01)),
        "traces_us": Figure(1e6 * traced_s, "us CPU/image", traced),
        "traces_of_image": Figure(traced_s * images_per_s, "ratio", f"{against}; {traced}", at_most(0.01)),
    }


def counted_image_s(rounds: int) -> float:
    """Return the CPU seconds of metrics per image: what is counted of it, and its share of a message to the parent."""
    collect()
    return median(_counting_s() for _ in range(rounds)) / _JOBS


def _counting_s() -> float:
    began = time.process_time()
    for place in range(0, _JOBS, _A_MESSAGE):
        for _ in range(place, min(place + _A_MESSAGE, _JOBS)):
            for name in STAGES:
                metrics.STAGE_SECONDS.observe(0.03, name)
            for _ in range(_STEPS):
                metrics.DEVICE_BUSY.add(0.02, "cuda:0")
            metrics.DEVICE_BATCH_SECONDS.observe(3.0)
            metrics.UPLOADED_BYTES.add(400_000)
            metrics.IMAGES.add(1, "sd-v1-5")
            metrics.count_attempts("done", 1)
        counts, gauges = collect()
        CountMessage(1, counts, gauges).encoded()
    return time.process_time() - began


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
