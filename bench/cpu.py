"""`cpu`: an image's CPU cost apart from model, watermark and encoding, and a worker's speed relative to the bare model.

It runs real lane sessions in this process: real job table, lane, leases, stages and folder. Models compute on one
thread, the calling one, so that thread clocks include them.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import cv2
from sqlalchemy import text

from bench.backlog import Backlog, open_backlog
from bench.harness.alternating_measurements import Samples, repeat, seconds, take_turns
from bench.harness.cpu_time import ServerClock, clocked_stages
from bench.harness.results import Figure, at_least, at_most
from bench.harness.services import Place, engine_on
from bench.image_files import SIDES, measure_files
from bench.mixed_manifest import ROWS, STEPS, measure_mixed
from bench.monitoring import measure_monitoring
from bench.watermark import measure_marks
from jobs.db.engine import run
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.liveness.lease_keeper import LeaseKeeper
from worker.model_cache.cache import ModelCache

MODEL = ("generate", "safety", "upscale")
FILE = ("watermark", "iscc_code", "encode", "sign", "verify_watermark")
REST = ("prompt_filter", "upload")

_times = itertools.count(1)
_ROWS = text("""
    SELECT prompt, negative_prompt, steps, guidance_scale, sampler, seed FROM jobs
    WHERE lane_id = :lane AND state = 'done' ORDER BY id LIMIT :count
""")


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure milliseconds of CPU per image, and images per second."""
    count, rounds, pairs = (8, 1, 1) if is_quick else (300, 5, 12)
    with single_threaded(), worker_context(place, "bench_cpu") as context:
        one_step = open_backlog(context.engine, "one-step", context.settings.output, steps=1)
        default = open_backlog(context.engine, "default", context.settings.output, steps=10)
        session_s(context, one_step, 8)
        paces = take_turns(
            pairs,
            {
                "whole": lambda: count / session_s(context, default, count),
                "bare": lambda: count / _render(context, default, count),
            },
        )
        costs = repeat(rounds, lambda: _cost(context, one_step, count))
        lane = transitions.open_lane(context.engine, default.lane)
        assert lane is not None
        model = context.model_cache.lane_models(lane).diffusion
        assert model is not None
        mixed = measure_mixed(model, rounds, (2,) if is_quick else STEPS)
        sides = SIDES[:1] if is_quick else SIDES
        beside = measure_files(rounds, sides) | measure_marks(rounds, sides)
        watched = _monitoring(context, default, paces.median("whole"), rounds)
    return _figures(costs) | _pace(paces) | watched | mixed | beside


def _figures(costs: Samples) -> dict[str, Figure]:
    middle = {name: costs.median(name) for name in costs.values}
    everything = "everything of a session but model, watermark and encoding; 64 px, 1 step"
    return {
        "orchestration_ms": Figure(
            middle["worker"] + middle["postgres"],
            "ms CPU/image",
            f"{everything}; worker and PostgreSQL",
            at_most(5),
        ),
        "worker_ms": Figure(middle["worker"], "ms CPU/image", "the worker's part of it"),
        "postgres_ms": Figure(middle["postgres"], "ms CPU/image", "PostgreSQL's part of it"),
        "prompt_filter_ms": Figure(
            middle["prompt_filter"], "ms CPU/image", "prompt check, in the worker's part"
        ),
        "upload_ms": Figure(middle["upload"], "ms CPU/image", "upload to a folder, in the worker's part"),
        "orchestration_per_file": Figure(
            (middle["worker"] + middle["postgres"]) / middle["file"],
            "ratio",
            f"watermark and encoding of a 64 px PNG: {middle['file']:.3g} ms CPU/image",
        ),
    }


def _pace(paces: Samples) -> dict[str, Figure]:
    bare = f"StableDiffusion.render of the same rows, 64 px, 10 steps, {ROWS} at once"
    return {
        "images_per_bare_render": Figure(
            paces.ratio("whole", "bare"),
            "ratio",
            f"{bare}: {paces.median('bare'):.1f} images/s; median of {len(paces.values['bare'])} pairs",
            at_least(0.9),
        ),
        "images_per_s": Figure(
            paces.median("whole"), "images/s", "claimed, rendered, checked, marked, stored, complete"
        ),
    }


def _monitoring(
    context: WorkerContext, backlog: Backlog, images_per_s: float, rounds: int
) -> dict[str, Figure]:
    backlog.fill(1)
    lane = transitions.open_lane(context.engine, backlog.lane)
    assert lane is not None
    (job,) = transitions.claim(context.engine, lane.id, limit=1, worker="bench", lease_s=3600)
    return measure_monitoring(lane, job, images_per_s, rounds)


def _cost(context: WorkerContext, backlog: Backlog, count: int) -> dict[str, float]:
    """Return the CPU cost of a session of one-step images by component, in milliseconds per image.

    `worker` is the worker's cost without model, watermark and encoding.
    """
    server = ServerClock(context.engine)
    backlog.fill(count)
    with clocked_stages() as clock:
        own, theirs = time.process_time(), server.seconds()
        session_s(context, backlog, count)
        own, theirs = time.process_time() - own, server.seconds() - theirs
    spent = {
        "worker": own - clock.total(MODEL) - clock.total(FILE),
        "postgres": theirs,
        "file": clock.total(FILE),
        **{name: clock.total([name]) for name in REST},
    }
    return {name: 1000 * cpu_s / count for name, cpu_s in spent.items()}


def session_s(context: WorkerContext, backlog: Backlog, count: int) -> float:
    """Return the seconds of a session that makes `count` images."""
    backlog.fill(count)
    started = time.perf_counter()
    taken = work(context, backlog.lane)
    elapsed = time.perf_counter() - started
    if taken != count:
        raise RuntimeError(f"the session took up {taken} jobs, not {count}")
    backlog.claimed += taken
    return elapsed


def _render(context: WorkerContext, backlog: Backlog, count: int) -> float:
    """Return the seconds of the model alone for finished rows of the backlog, in the same device batches.

    The prompts are changed, because the model caches encoded prompts.
    """
    from models.diffusion.requests import ImageRequest  # noqa: PLC0415 - imports torch

    lane = transitions.open_lane(context.engine, backlog.lane)
    assert lane is not None
    rows = run(context.engine, _ROWS, {"lane": lane.id, "count": count})
    requests = [
        ImageRequest(
            **{**row._mapping, "prompt": f"{row.prompt} once more ({next(_times)})", "seed": int(row.seed)},
            width=lane.width,
            height=lane.height,
        )
        for row in rows
    ]
    model, shape = context.model_cache.lane_models(lane).diffusion, context.model_cache.rows(lane)
    assert model is not None
    return seconds(lambda: model.render(requests, rows=shape))


@contextmanager
def worker_context(
    place: Place, database: str, given: Mapping[str, object] | None = None
) -> Iterator[WorkerContext]:
    """Open a worker's context in this process, with a database of its own and these settings."""
    with place.database(database) as found, engine_on(found.database, pool_size=6) as engine:
        own = {"device": "cpu", "time_slice_s": 3600.0, "batch_size": ROWS, **(given or {})}
        settings = found.model_copy(update=own)
        leases = LeaseKeeper(engine, "bench", "cpu:0", settings.lease_s)
        leases.start()
        try:
            yield WorkerContext(settings, engine, leases, ModelCache(settings, 0), SignalSafeEvent(), "bench")
        finally:
            leases.stop()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let models and image processing compute in the calling thread alone."""
    import torch  # noqa: PLC0415 - takes a second, which other benchmarks needn't spend

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
