"""Public job queues on PostgreSQL, for comparison: no-op jobs through one of their workers, on the same server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, TextClause, text

from bench.harness.progress import note
from bench.harness.services import Place, engine_on, vacuum
from jobs.db.engine import run

# The best of 10 to 100 jobs at once on 4 to 20 connections (all alike), and of 10 to 1,000 jobs a claim.
PROCRASTINATE_AT_ONCE = 30
PROCRASTINATE_CONNECTIONS = 20
PGQUEUER_BATCH = 400
_ENQUEUED_AT_ONCE = 10_000

_NOW = text("SELECT clock_timestamp() AS now")
_PROCRASTINATE_DONE = text("""
    SELECT count(*) AS done, max(at) AS at
    FROM procrastinate_jobs JOIN procrastinate_events ON procrastinate_events.job_id = procrastinate_jobs.id
    WHERE status = 'succeeded' AND type = 'succeeded'
""")
_PGQUEUER_DONE = text("""
    SELECT count(*) AS done, max(created) AS at FROM pgqueuer_log
    WHERE status = 'successful' AND NOT EXISTS (SELECT FROM pgqueuer)
""")

Worker = Callable[[], Awaitable[object]]


def procrastinate_rate(place: Place, jobs: int) -> float | None:
    """Return no-op jobs per second of one procrastinate worker; None, with a note, where the package is missing."""
    if not _installed("procrastinate"):
        return None
    with _database(place, "bench_procrastinate") as (url, engine):
        return asyncio.run(_procrastinate(url, engine, jobs))


def pgqueuer_rate(place: Place, jobs: int) -> float | None:
    """Return no-op jobs per second of one PgQueuer worker over asyncpg; None, with a note, if a package is missing."""
    if not _installed("pgqueuer", "asyncpg", "uvloop"):
        return None
    import uvloop  # noqa: PLC0415 - optional

    with _database(place, "bench_pgqueuer") as (url, engine):
        rate: float = uvloop.run(_pgqueuer(url, engine, jobs))
        return rate


async def _procrastinate(url: str, engine: Engine, jobs: int) -> float:
    from procrastinate import App, PsycopgConnector  # noqa: PLC0415 - optional

    app = App(connector=PsycopgConnector(conninfo=url, max_size=PROCRASTINATE_CONNECTIONS))
    task = app.task(name="nothing")(_nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for count in _portions(jobs):
            await task.batch_defer_async(*[{"job": number} for number in range(count)])
        vacuum(engine, "procrastinate_jobs")

        def worker() -> Awaitable[object]:
            done: Awaitable[object] = app.run_worker_async(
                concurrency=PROCRASTINATE_AT_ONCE, wait=False, install_signal_handlers=False
            )
            return done

        return await _timed(worker, engine, _PROCRASTINATE_DONE, jobs)


async def _pgqueuer(url: str, engine: Engine, jobs: int) -> float:
    import asyncpg  # noqa: PLC0415 - optional
    from pgqueuer import PgQueuer  # noqa: PLC0415 - optional
    from pgqueuer.domain.types import QueueExecutionMode  # noqa: PLC0415 - optional

    connection = await asyncpg.connect(url)
    try:
        app = PgQueuer.from_asyncpg_connection(connection)
        await app.qm.queries.install()
        await app.qm.queries.optimize_autovacuum()
        app.entrypoint("nothing")(_nothing)
        for count in _portions(jobs):
            await app.qm.queries.enqueue(["nothing"] * count, [None] * count, [0] * count)
        vacuum(engine, "pgqueuer")

        def worker() -> Awaitable[object]:
            done: Awaitable[object] = app.run(batch_size=PGQUEUER_BATCH, mode=QueueExecutionMode.drain)
            return done

        return await _timed(worker, engine, _PGQUEUER_DONE, jobs)
    finally:
        await connection.close()


async def _nothing(*_: Any, **__: Any) -> None:
    """A job."""


async def _timed(worker: Worker, engine: Engine, done: TextClause, jobs: int) -> float:
    """Jobs a second from the worker's start to the last job's record of its end, all by the server's clock."""
    started: datetime = run(engine, _NOW, {})[0].now
    await worker()
    ended = run(engine, done, {})[0]
    if ended.done != jobs:
        raise RuntimeError(f"the worker did {ended.done:,} jobs of {jobs:,}")
    elapsed: float = (ended.at - started).total_seconds()
    return jobs / elapsed


def _portions(jobs: int) -> Iterator[int]:
    while jobs > 0:
        yield min(jobs, _ENQUEUED_AT_ONCE)
        jobs -= _ENQUEUED_AT_ONCE


def _installed(*packages: str) -> bool:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        note(f"{packages[0]}: not measured, {missing[0]} is not installed; pip install -e '.[bench]'")
    return not missing


@contextmanager
def _database(place: Place, name: str) -> Iterator[tuple[str, Engine]]:
    """Create an empty database and an engine on it; these queues log only warnings and errors."""
    for logger in ("procrastinate", "pgqueuer"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    with place.empty_database(name) as url, engine_on(url) as engine:
        yield url, engine
