"""The report of a night on a million jobs: `nightmill report`'s queries, against one count of the jobs."""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from bench.backlog import open_backlog
from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.results import Figure, at_most
from bench.harness.services import Place, engine_on, vacuum
from jobs.db.engine import run
from jobs.report.failures_since import failures_since
from jobs.report.night_report import collect_report

ENDED = 1_000
"""Batches that ended within the night."""
WORKERS = 5
"""That worked at each of them, in two quarters of an hour: as 20 workers that change lanes ten times a quarter."""

_FAIL = text("""
    WITH failed AS (
        UPDATE jobs SET state = 'failed', attempt = 1,
            error_kind = (ARRAY['bad-input', 'watermark', 'oom'])[1 + id % 3],
            error_text = 'no such picture', finished_at = now(), worker = 'w1', started_at = now()
        WHERE id % 100 = 0 RETURNING *
    ), logged AS (
        INSERT INTO attempts (job_id, attempt, worker, started_at, outcome, error_kind, error_text)
        SELECT id, 1, worker, started_at, 'failed', error_kind, error_text FROM failed
    )
    INSERT INTO job_counts (batch_id, lane_id, state, delta)
    SELECT batch_id, lane_id, changed.state, sum(delta)
    FROM failed, (VALUES ('failed', 1), ('queued', -1)) AS changed (state, delta) GROUP BY 1, 2, 3 RETURNING id
""")

_ENDED = text("""
    WITH made AS (
        INSERT INTO batches (name, digest, manifest, manifest_sha256, settings, output, max_attempts, priority,
            started_at, ended_at, deadline)
        SELECT 'ended-' || n, 'ended-' || n, 'ended.jsonl', '', '{}', '/output', 3, 0, now(), now(), now()
        FROM generate_series(1, CAST(:batches AS int)) AS n RETURNING id
    ), shaped AS (
        INSERT INTO lanes (batch_id, tenant, model, width, height, upscale, ended_at)
        SELECT id, 'tenant-' || id % 10, 'sd-v1-5', 512, 512, 0, now() FROM made RETURNING id, batch_id, tenant
    ), counted AS (
        INSERT INTO job_counts (batch_id, lane_id, state, delta) SELECT batch_id, id, 'done', 1000 FROM shaped
    )
    INSERT INTO lane_usage (began_at, batch_id, lane_id, tenant, worker, device, worker_s, device_s, images)
    SELECT date_bin('15 minutes', now() - make_interval(mins => 15 * q), 'epoch'), batch_id, id, tenant, 'w' || w,
        'NVIDIA H200', 60, 50, 100
    FROM shaped, generate_series(1, CAST(:workers AS int)) AS w, generate_series(0, 1) AS q RETURNING lane_id
""")

_COUNT = text("SELECT count(*) FROM jobs")


def measure(place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure the report and the list of failures since twelve hours ago."""
    jobs, ended, rounds = (10_000, 20, 3) if is_quick else (1_000_000, ENDED, 11)
    since = datetime.now(UTC) - timedelta(hours=12)
    with ExitStack() as stack:
        engine = _night(stack, place, jobs, ended)
        samples = take_turns(
            rounds,
            {
                "report": lambda: seconds(lambda: collect_report(engine, since)),
                "failures": lambda: seconds(lambda: failures_since(engine, since)),
                "count": lambda: seconds(lambda: run(engine, _COUNT, {})),
            },
        )
    against = f"{jobs:,} jobs, {jobs // 100:,} failed; {ended:,} batches ended, {ended * WORKERS * 2:,} rows of usage"
    counted = f"one count of the jobs: {1000 * samples.median('count'):.0f} ms"
    return {
        "report_ms": Figure(1000 * samples.median("report"), "ms", against, at_most(500)),
        "report_per_count": Figure(samples.ratio("report", "count"), "ratio", counted, None),
        "failures_ms": Figure(1000 * samples.median("failures"), "ms", against, at_most(500)),
    }


def _night(stack: ExitStack, place: Place, jobs: int, ended: int) -> Engine:
    settings = stack.enter_context(place.database("bench_report"))
    engine = stack.enter_context(engine_on(settings.database))
    open_backlog(engine, "night", settings.output).fill(jobs)
    run(engine, _FAIL, {})
    run(engine, _ENDED, {"batches": ended, "workers": WORKERS})
    for table in ("jobs", "attempts", "lane_usage", "job_counts", "batches", "lanes"):
        vacuum(engine, table)
    return engine
