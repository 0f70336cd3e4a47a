"""`queue`: claims from short and long backlogs, in parallel, during archiving, under an old transaction; whole jobs."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Engine, text

from bench.backlog import START, Backlog, open_backlog
from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.process_speedup_limit import gain_of_all_cores
from bench.harness.progress import note
from bench.harness.results import Figure, at_least, at_most
from bench.harness.services import Place, engine_on
from bench.queue.concurrent_clients import Crowd
from bench.queue.ended_batches import measure_a_year
from bench.queue.rates_of_other_job_queues import pgqueuer_rate, procrastinate_rate
from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import archive
from jobs.db.engine import run
from jobs.queue.lane_counts_and_low_watermarks import raise_low_watermarks
from jobs.settings import Settings

AT_ONCE = 64
RENDERERS = 2
RENDERED_AT_ONCE = 256


@dataclass(frozen=True)
class _Sizes:
    """Jobs of both backlogs, rounds, calls per round, claims under an old transaction, jobs archived, jobs of peers.

    Also the number of processes that claim at once, of ended batches, and of lane picks measured beside them.
    """

    short: int = 10_000
    long: int = 10_000_000
    rounds: int = 5
    calls: int = 100
    claimers: int = 8
    crowd_calls: int = 60
    pinned: int = 200_000
    archived: int = 100_000
    peers: int = 5_000
    ended: int = 5_000
    time_slices: int = 100


QUICK = _Sizes(
    short=2_000,
    long=8_000,
    rounds=2,
    calls=3,
    claimers=2,
    crowd_calls=2,
    pinned=640,
    archived=1_000,
    peers=50,
    ended=20,
    time_slices=4,
)


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure jobs per second from both backlogs, claim by claim in turns, and under possible disturbances."""
    sizes = QUICK if is_quick else _Sizes()
    with ExitStack() as stack:
        short = _backlog(stack, place, "bench_short", sizes.short, sizes.claimers)
        long = _backlog(stack, place, "bench_long", sizes.long, sizes.claimers)
        return {
            **_race(short, long, sizes, AT_ONCE),
            **_race(short, long, sizes, 1),
            **_status(long, sizes),
            **_crowd(long, sizes),
            **_beside_an_archive(short, sizes),
            **_under_an_old_transaction(long, sizes),
            **_whole_jobs(place, long, sizes),
            **measure_a_year(place, sizes.ended, sizes.time_slices),
        }


def _backlog(stack: ExitStack, place: Place, name: str, queued: int, claimers: int) -> Backlog:
    settings = stack.enter_context(place.database(name))
    engine = stack.enter_context(engine_on(settings.database, pool_size=claimers))
    backlog = open_backlog(engine, name.replace("_", "-"), settings.output)
    note(f"filling {queued:,} jobs into {name}: {seconds(lambda: backlog.fill(queued)):.1f} s")
    return backlog


def _race(short: Backlog, long: Backlog, sizes: _Sizes, limit: int) -> dict[str, Figure]:
    """Claim `limit` jobs from both backlogs in turns, A B B A, so that both meet the same disturbances."""
    ratios, rates, short_rates = [], [], []
    for number in range(1, sizes.rounds + 1):
        short.fill(sizes.short)
        taken: dict[str, list[float]] = {"short": [], "long": []}
        turns = [("short", short), ("long", long)]
        for _ in range(sizes.calls):
            for name, backlog in turns:
                taken[name].append(_claim_s(backlog, limit))
            turns.reverse()
        middle = {name: median(times) for name, times in taken.items()}
        ratios.append(middle["short"] / middle["long"])
        rates.append(limit / middle["long"])
        short_rates.append(limit / middle["short"])
        note(
            f"round {number} of {sizes.rounds}: claims of {limit}: {rates[-1]:,.0f} jobs/s, ratio {ratios[-1]:.3f}"
        )
    against = f"{sizes.short:,} queued: {median(short_rates):,.0f} jobs/s"
    return {
        f"claim_{limit}_long_per_short": Figure(median(ratios), "ratio", against, at_least(0.9)),
        f"claim_{limit}_jobs_per_s": Figure(
            median(rates), "jobs/s", f"{sizes.long:,} queued, {limit} a claim"
        ),
    }


def _claim_s(backlog: Backlog, limit: int = AT_ONCE) -> float:
    return seconds(lambda: backlog.claim(limit))


def _status(long: Backlog, sizes: _Sizes) -> dict[str, Figure]:
    measurements = {
        "status": lambda: 1000 * seconds(lambda: actions.status(long.engine, long.name)),
        "count": lambda: 1000 * seconds(lambda: _count(long.engine)),
    }
    samples = take_turns(2 if sizes.rounds < 3 else 3, measurements)
    counting = f"counting the jobs by state: {samples.median('count'):,.0f} ms"
    return {
        "status_per_count": Figure(samples.ratio("status", "count"), "ratio", counting, at_most(0.1)),
        "status_ms": Figure(
            samples.median("status"), "ms", f"status of a batch with {sizes.long:,} jobs", at_most(50)
        ),
    }


def _count(engine: Engine) -> None:
    run(engine, text("SELECT state, count(*) FROM jobs GROUP BY state"), {})


def _crowd(long: Backlog, sizes: _Sizes) -> dict[str, Figure]:
    """Compare processes that claim concurrently with one of them, in turns, with a worker's claim size.

    A job claimed by two processes ends the benchmark.
    """
    url = long.engine.url.render_as_string(hide_password=False)
    crowd = Crowd(url, long.lane, Settings.model_fields["claim"].default, sizes.crowd_calls)
    rates = _rates(long, crowd, [1, sizes.claimers, sizes.claimers, 1] * sizes.rounds)
    one, many = rates[::4] + rates[3::4], rates[1::4] + rates[2::4]
    ratio = median(all_ / alone for all_, alone in zip(many, one, strict=True))
    against = f"one claimer: {median(one):,.0f} jobs/s; pure computing gains {gain_of_all_cores():.2f} from all cores"
    return {f"claimers_{sizes.claimers}_per_1": Figure(ratio, "ratio", against, at_least(2))}


def _rates(backlog: Backlog, crowd: Crowd, turns: list[int]) -> list[float]:
    raise_low_watermarks(backlog.engine)
    jobs, rates = crowd.take_turns(turns)
    backlog.claimed += jobs
    note(
        f"{' and '.join(map(str, sorted(set(turns))))} at once: {', '.join(f'{rate:,.0f}' for rate in rates)} jobs/s"
    )
    return rates


def _beside_an_archive(short: Backlog, sizes: _Sizes) -> dict[str, Figure]:
    """Compare claims while an ended batch's jobs are deleted in chunks with claims before and after that."""
    old = open_backlog(short.engine, "ended", "output")
    old.fill(sizes.archived)
    with short.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE jobs SET state = 'failed', finished_at = now(), error_kind = 'oom' "
                "WHERE lane_id = :lane"
            ),
            {"lane": old.lane},
        )
        connection.execute(
            text("UPDATE job_counts SET state = 'failed' WHERE lane_id = :lane"), {"lane": old.lane}
        )
    short.fill(sizes.short)
    alone = [_claim_s(short) for _ in range(sizes.calls // 2)]
    status = actions.status(short.engine, "ended")
    beside: list[float] = []
    for _ in _while(lambda: archive(short.engine, status)):
        short.fill(AT_ONCE)
        beside.append(_claim_s(short))
    short.fill(sizes.short)
    alone += [_claim_s(short) for _ in range(sizes.calls // 2)]
    against = (
        f"claims alone: {AT_ONCE / median(alone):,.0f} jobs/s; {sizes.archived:,} jobs dropped meanwhile"
    )
    return {"claims_beside_archive": Figure(median(alone) / median(beside), "ratio", against)}


def _while(work: Callable[[], object]) -> Iterator[None]:
    """Repeat until `work`, in a thread, has ended; at least once."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    while thread.is_alive():
        yield
    thread.join()


def _under_an_old_transaction(long: Backlog, sizes: _Sizes) -> dict[str, Figure]:
    """Compare the last of many claims, under a transaction that began before all of them, with the first.

    The scheduler's five-second maintenance runs between them; claims of a worker that is new to the lane, which start
    from the lane's low watermark, are measured, too.
    """
    calls = sizes.pinned // AT_ONCE
    edge = max(2, calls // 20)
    with _old_transaction(long.engine):
        times = []
        for number in range(calls):
            times.append(_claim_s(long))
            if number % 500 == 0:
                raise_low_watermarks(long.engine)
        raise_low_watermarks(long.engine)
        first, last = median(times[:edge]), median(times[-edge:])
        anew = median(_claim_anew_s(long) for _ in range(9))
    against = f"the first {edge} claims of {AT_ONCE}: {AT_ONCE / first:,.0f} jobs/s"
    return {
        "claim_old_transaction": Figure(
            first / last, "ratio", f"{against}; after {sizes.pinned:,}", at_least(0.8)
        ),
        "claim_anew_old_transaction": Figure(first / anew, "ratio", "a worker that begins in the lane then"),
    }


def _claim_anew_s(long: Backlog) -> float:
    long.after = START
    return _claim_s(long)


@contextmanager
def _old_transaction(engine: Engine) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT pg_current_xact_id()"))
        yield
        connection.rollback()


def _whole_jobs(place: Place, long: Backlog, sizes: _Sizes) -> dict[str, Figure]:
    """Measure jobs from queued to done with image rows, against public queues, which store only that a job is done."""
    url = long.engine.url.render_as_string(hide_password=False)
    one = Crowd(url, long.lane, RENDERED_AT_ONCE, sizes.crowd_calls, completes=True)
    own = median(_rates(long, one, [RENDERERS] * 3))
    figures = {
        "whole_jobs_per_s": Figure(
            own,
            "jobs/s",
            f"{RENDERERS} stub renderers, claims and completions of {RENDERED_AT_ONCE}",
            at_least(5000),
        )
    }
    for name, rate in (("procrastinate", procrastinate_rate), ("pgqueuer", pgqueuer_rate)):
        if peer := rate(place, sizes.peers):
            figures[f"whole_per_{name}"] = Figure(
                own / peer, "ratio", f"{name}, no-op jobs: {peer:,.0f} jobs/s"
            )
    return figures
