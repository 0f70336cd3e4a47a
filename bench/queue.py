"""`queue`: claims from a short and a long backlog, whole jobs, several claimers, and the status of a large batch."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Engine, text

from bench.backlog import Backlog, image_of, open_backlog
from bench.figures import Figure, at_least, at_most
from bench.place import Place, engine_on
from bench.progress import note
from bench.rounds import Samples, seconds, take_turns
from jobs import batches, queue
from jobs.database import run

AT_ONCE = 64
CLAIMERS = 8


@dataclass(frozen=True)
class _Sizes:
    """Queued jobs of the two backlogs, rounds, and calls a measurement."""

    short: int = 10_000
    long: int = 1_000_000
    rounds: int = 7
    calls: int = 30
    single_calls: int = 300


QUICK = _Sizes(short=1_000, long=5_000, rounds=2, calls=3, single_calls=20)


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Jobs a second from both backlogs, call by call in turns."""
    sizes = QUICK if is_quick else _Sizes()
    with ExitStack() as stack:
        short = _backlog(stack, place, "bench_short", sizes.short)
        long = _backlog(stack, place, "bench_long", sizes.long)
        many = _Race(short, long, sizes, AT_ONCE, sizes.calls)
        single = _Race(short, long, sizes, 1, sizes.single_calls)
        measurements = {
            "64_short": many.run,
            "64_long": lambda: many.long_rate,
            "1_short": single.run,
            "1_long": lambda: single.long_rate,
            "1_claimer": lambda: _together(long, sizes.long, 1, CLAIMERS * sizes.calls),
            "8_claimers": lambda: _together(long, sizes.long, CLAIMERS, sizes.calls),
            "whole": lambda: _whole_jobs(long, sizes.long, sizes.calls),
            "status": lambda: 1000 * seconds(lambda: batches.status(long.engine, long.name)),
            "count": lambda: 1000 * seconds(lambda: _count(long.engine)),
        }
        return _figures(take_turns(sizes.rounds, measurements), sizes)


@dataclass
class _Race:
    """Claims of `limit` jobs from both backlogs in turns: A B B A, so that both meet the same disturbances."""

    short: Backlog
    long: Backlog
    sizes: _Sizes
    limit: int
    calls: int
    long_rate: float = 0.0

    def run(self) -> float:
        """Jobs a second by the median claim from the short backlog; `long_rate` is that of the long one."""
        self.short.fill(self.sizes.short)
        self.long.fill(self.sizes.long)
        taken: dict[str, list[float]] = {"short": [], "long": []}
        turns = [("short", self.short), ("long", self.long)]
        for _ in range(self.calls):
            for name, backlog in turns:
                taken[name].append(_timed_claim(backlog, self.limit))
            turns.reverse()
        self.long_rate = self.limit / median(taken["long"])
        return self.limit / median(taken["short"])


def _timed_claim(backlog: Backlog, limit: int) -> float:
    return seconds(lambda: backlog.claim(limit))


def _figures(samples: Samples, sizes: _Sizes) -> dict[str, Figure]:
    middle = {name: samples.median(name) for name in samples.values}
    long, short = f"{sizes.long:,} queued", f"{sizes.short:,} queued"
    return {
        "claim_64_long_per_short": Figure(
            samples.ratio("64_long", "64_short"),
            "ratio",
            f"{short}: {middle['64_short']:,.0f} jobs/s",
            at_least(0.9),
        ),
        "claim_64_jobs_per_s": Figure(middle["64_long"], "jobs/s", f"{long}, 64 a claim"),
        "claim_1_long_per_short": Figure(
            samples.ratio("1_long", "1_short"),
            "ratio",
            f"{short}: {middle['1_short']:,.0f} jobs/s",
            at_least(0.9),
        ),
        "claim_1_jobs_per_s": Figure(middle["1_long"], "jobs/s", f"{long}, one a claim"),
        "claimers_8_per_1": Figure(
            samples.ratio("8_claimers", "1_claimer"),
            "ratio",
            f"one claimer: {middle['1_claimer']:,.0f} jobs/s",
            at_least(1),
        ),
        "whole_jobs_per_s": Figure(middle["whole"], "jobs/s", f"claim 64 and complete 4 at a time, {long}"),
        "status_per_count": Figure(
            samples.ratio("status", "count"),
            "ratio",
            f"counting the jobs by state: {middle['count']:,.0f} ms",
            at_most(0.1),
        ),
        "status_ms": Figure(middle["status"], "ms", f"status of a batch with {long}"),
    }


def _backlog(stack: ExitStack, place: Place, name: str, queued: int) -> Backlog:
    settings = stack.enter_context(place.database(name))
    engine = stack.enter_context(engine_on(settings.database, pool_size=CLAIMERS))
    backlog = open_backlog(engine, name.replace("_", "-"), settings.output)
    note(f"filling {queued:,} jobs into {name}: {seconds(lambda: backlog.fill(queued)):.1f} s")
    return backlog


def _together(backlog: Backlog, queued: int, claimers: int, calls: int) -> float:
    """Jobs a second of several claimers at once."""
    backlog.fill(queued)
    started, before = time.perf_counter(), backlog.claimed
    with ThreadPoolExecutor(claimers) as pool:
        each = list(pool.map(lambda _: _claim_often(backlog, calls), range(claimers)))
    elapsed = time.perf_counter() - started
    backlog.claimed = before + sum(each)
    return sum(each) / elapsed


def _claim_often(backlog: Backlog, calls: int) -> int:
    return sum(len(backlog.claim(AT_ONCE)) for _ in range(calls))


def _whole_jobs(backlog: Backlog, queued: int, calls: int) -> float:
    """Jobs a second from queued to done, delivered as a worker does: by device batch of four."""
    backlog.fill(queued)
    started, before = time.perf_counter(), backlog.claimed
    for _ in range(max(1, calls // 5)):
        jobs = backlog.claim(AT_ONCE)
        for start in range(0, len(jobs), 4):
            queue.complete(backlog.engine, [image_of(job) for job in jobs[start : start + 4]])
    return (backlog.claimed - before) / (time.perf_counter() - started)


def _count(engine: Engine) -> None:
    run(engine, text("SELECT state, count(*) FROM jobs GROUP BY state"), {})
