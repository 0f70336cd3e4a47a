"""`cpu`: what an image costs beside model, watermark and encoding, and how near a worker comes to the bare model.

It runs real shifts in this process: real job table, lane, leases, stages and folder. Models compute on one thread, in
the thread that calls them, so that thread clocks see them.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
from sqlalchemy import text

from bench.backlog import Backlog, open_backlog
from bench.clocks import ServerClock, StageClock, clocked_stages
from bench.figures import Figure, at_least, at_most
from bench.files import SIDES, measure_files
from bench.marks import measure_marks
from bench.mixed import ROWS, STEPS, measure_mixed
from bench.place import Place, engine_on
from bench.rounds import Samples, seconds, take_turns
from jobs import queue
from jobs.database import run
from jobs.process import Latch
from worker.leases import Leases
from worker.shift import Desk, work
from worker.studio import Studio

MODEL = ("generate", "safety", "upscale")
FILE = ("watermark", "encode", "readback")
REST = ("prompt", "upload")

_times = itertools.count(1)
_ROWS = text("""
    SELECT prompt, negative_prompt, steps, guidance_scale, sampler, seed FROM jobs
    WHERE lane_id = :lane AND state = 'done' ORDER BY id LIMIT :count
""")


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Milliseconds of CPU an image, and images a second."""
    count, rounds = (8, 1) if is_quick else (300, 5)
    with _single_threaded(), _desk(place) as desk:
        one_step = open_backlog(desk.engine, "one-step", desk.settings.output, steps=1)
        default = open_backlog(desk.engine, "default", desk.settings.output, steps=10)
        _work(desk, one_step, 8)
        cost = _Cost(desk, one_step, count)
        rates = take_turns(
            rounds,
            {
                "whole": lambda: count / _work(desk, default, count),
                "bare": lambda: count / _render(desk, default, count),
                "cost": cost.run,
                "server": lambda: cost.server_ms,
                "file": lambda: cost.file_ms,
                **{name: cost.reader(name) for name in REST},
            },
        )
        lane = queue.open_lane(desk.engine, default.lane)
        assert lane is not None
        model = desk.studio.kit(lane).diffusion
        assert model is not None
        mixed = measure_mixed(model, rounds, (2,) if is_quick else STEPS)
        sides = SIDES[:1] if is_quick else SIDES
        beside = measure_files(rounds, sides) | measure_marks(rounds, sides)
    return _figures(rates) | mixed | beside


def _figures(samples: Samples) -> dict[str, Figure]:
    middle = {name: samples.median(name) for name in samples.values}
    everything = "everything of a shift but model, watermark and encoding; 64 px, 1 step"
    return {
        "orchestration_ms": Figure(
            middle["cost"] + middle["server"],
            "ms CPU/image",
            f"{everything}; worker and PostgreSQL",
            at_most(5),
        ),
        "worker_ms": Figure(middle["cost"], "ms CPU/image", "the worker's part of it"),
        "postgres_ms": Figure(middle["server"], "ms CPU/image", "PostgreSQL's part of it"),
        "prompt_ms": Figure(middle["prompt"], "ms CPU/image", "prompt check, in the worker's part"),
        "upload_ms": Figure(middle["upload"], "ms CPU/image", "upload to a folder, in the worker's part"),
        "orchestration_per_file": Figure(
            (middle["cost"] + middle["server"]) / middle["file"],
            "ratio",
            f"watermark and encoding of a 64 px PNG: {middle['file']:.3g} ms CPU/image",
        ),
        "images_per_bare_render": Figure(
            samples.ratio("whole", "bare"),
            "ratio",
            f"StableDiffusion.render of the same rows, 64 px, 10 steps, {ROWS} at once: {middle['bare']:.1f} images/s",
            at_least(0.9),
        ),
        "images_per_s": Figure(
            middle["whole"], "images/s", "claimed, rendered, checked, marked, stored, complete"
        ),
    }


@dataclass
class _Cost:
    """CPU of shifts of one-step images; milliseconds an image."""

    desk: Desk
    backlog: Backlog
    count: int
    server_ms: float = 0.0
    file_ms: float = 0.0
    clock: StageClock | None = None

    def run(self) -> float:
        """The worker's CPU outside of model, watermark and encoding."""
        server = ServerClock(self.desk.engine)
        self.backlog.fill(self.count)
        with clocked_stages() as self.clock:
            own, theirs = time.process_time(), server.seconds()
            _work(self.desk, self.backlog, self.count)
            own, theirs = time.process_time() - own, server.seconds() - theirs
        self.server_ms = self._per_image(theirs)
        self.file_ms = self._per_image(self.clock.total(FILE))
        return self._per_image(own - self.clock.total(MODEL) - self.clock.total(FILE))

    def reader(self, stage: str) -> Callable[[], float]:
        """What gives the last run's CPU of a stage."""
        return lambda: self._per_image(self.clock.total([stage]) if self.clock else 0.0)

    def _per_image(self, cpu_s: float) -> float:
        return 1000 * cpu_s / self.count


def _work(desk: Desk, backlog: Backlog, count: int) -> float:
    """Seconds of a shift that makes `count` images."""
    backlog.fill(count)
    started = time.perf_counter()
    taken = work(desk, backlog.lane)
    elapsed = time.perf_counter() - started
    if taken != count:
        raise RuntimeError(f"the shift took up {taken} jobs, not {count}")
    backlog.claimed += taken
    return elapsed


def _render(desk: Desk, backlog: Backlog, count: int) -> float:
    """Seconds of the model alone for rows of the backlog that are done, in the same device batches.

    Their prompts are changed: the model keeps what it has encoded.
    """
    from models.stable_diffusion import ImageRequest  # noqa: PLC0415 - brings torch

    lane = queue.open_lane(desk.engine, backlog.lane)
    assert lane is not None
    rows = run(desk.engine, _ROWS, {"lane": lane.id, "count": count})
    requests = [
        ImageRequest(
            **{**row._mapping, "prompt": f"{row.prompt} once more ({next(_times)})", "seed": int(row.seed)},
            width=lane.width,
            height=lane.height,
        )
        for row in rows
    ]
    model, shape = desk.studio.kit(lane).diffusion, desk.studio.rows(lane)
    assert model is not None
    return seconds(lambda: model.render(requests, rows=shape))


@contextmanager
def _desk(place: Place) -> Iterator[Desk]:
    with place.database("bench_cpu") as found, engine_on(found.database, pool_size=6) as engine:
        settings = found.model_copy(update={"device": "cpu", "shift_s": 3600.0, "gpu_rows": ROWS})
        leases = Leases(engine, "bench", "cpu:0", settings.lease_s)
        leases.start()
        try:
            yield Desk(settings, engine, leases, Studio(settings, 0), Latch(), "bench")
        finally:
            leases.stop()


@contextmanager
def _single_threaded() -> Iterator[None]:
    import torch  # noqa: PLC0415 - a second that the other benchmarks needn't spend

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
