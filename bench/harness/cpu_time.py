"""CPU time of a lane session: of its stages, of this process, of PostgreSQL."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
from sqlalchemy import Engine, text

from jobs.db.engine import run
from worker.bisect import Stage, aside, run_stage
from worker.item import PipelineItem
from worker.lanes import lane_session, stage_runner


@dataclass
class StageClock:
    """CPU seconds by stage, of the threads that run it."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lock: threading.Lock = field(default_factory=threading.Lock)
    away: threading.local = field(default_factory=threading.local)

    def run_stage(self, name: str, stage: Stage, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Run a stage like the worker and record the thread's CPU time. Models must compute in the calling thread."""
        started, before = time.thread_time(), self._away_s()
        try:
            return run_stage(name, stage, items)
        finally:
            with self.lock:
                self.seconds[name] += time.thread_time() - started - (self._away_s() - before)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Exclude this block from the stage's wall time, like the worker, and from its CPU time."""
        started, before = time.thread_time(), self._away_s()
        try:
            with aside():
                yield
        finally:
            self.away.seconds = before + time.thread_time() - started

    def _away_s(self) -> float:
        seconds: float = getattr(self.away, "seconds", 0.0)
        return seconds

    def total(self, names: Sequence[str]) -> float:
        """Return the total seconds of several stages."""
        return sum(self.seconds[name] for name in names)


@contextmanager
def clocked_stages() -> Iterator[StageClock]:
    """Measure every stage of this process's lane sessions for the duration of the block."""
    clock = StageClock()
    _install(clock.run_stage, clock.aside)
    try:
        yield clock
    finally:
        _install(run_stage, aside)


def _install(run: Callable[..., list[PipelineItem]], away: Callable[..., object]) -> None:
    vars(lane_session).update(run_stage=run, aside=away)
    vars(stage_runner).update(run_stage=run)


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
