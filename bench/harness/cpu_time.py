"""CPU time of a lane session: of its stages, of this process, of PostgreSQL."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from unittest.mock import patch

import psutil
from sqlalchemy import Engine, text

from jobs.db.engine import run
from worker.bisect import Run, run_stage
from worker.item import PipelineItem
from worker.lanes import run_stages_and_report_ends
from worker.stages.generate import Generate


@dataclass
class StageClock:
    """CPU seconds by stage, of the threads that run it."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run_stage(self, name: str, run: Run, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Run a stage like the worker and record the thread's CPU time. Models must compute in the calling thread."""
        with self._clocked(name):
            return run_stage(name, run, items)

    def step(self, generate: Generate) -> list[PipelineItem]:
        """Run a step of the model like the worker and record the thread's CPU time."""
        with self._clocked(generate.name):
            return _step(generate)

    def total(self, names: Sequence[str]) -> float:
        """Return the total seconds of several stages."""
        return sum(self.seconds[name] for name in names)

    @contextmanager
    def _clocked(self, name: str) -> Iterator[None]:
        started = time.thread_time()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[name] += time.thread_time() - started


_step = Generate.step


@contextmanager
def clocked_stages() -> Iterator[StageClock]:
    """Measure every stage of this process's lane sessions for the duration of the block."""
    clock = StageClock()

    def step(generate: Generate) -> list[PipelineItem]:
        return clock.step(generate)

    with (
        patch.object(run_stages_and_report_ends, "run_stage", clock.run_stage),
        patch.object(Generate, "step", step),
    ):
        yield clock


class ServerClock:
    """CPU time of the PostgreSQL server on this machine: all its processes, including those that have ended."""

    def __init__(self, engine: Engine) -> None:
        backend = run(engine, text("SELECT pg_backend_pid() AS pid"), {})[0].pid
        self._postmaster = psutil.Process(backend).parent()

    def seconds(self) -> float:
        """Return the CPU seconds so far."""
        assert self._postmaster is not None
        times = self._postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for process in self._postmaster.children():
            with suppress(psutil.NoSuchProcess):  # autovacuum workers are short-lived
                own = process.cpu_times()
                total += own.user + own.system
        return float(total)
