"""Batches, claimed jobs and what ends them, made through the real statements with consistent defaults."""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from jobs.job_dataclasses import BatchId, Failure, Image, Job, JobId, LaneId
from jobs.manifest import open_source
from jobs.outputs.ownership import claim, owner_key
from jobs.policy.batch_policy import BatchPolicy
from jobs.queue import transitions
from jobs.states import ErrorKind
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.ingest.ingest import Ingested, ingest
from scheduler.ingest.rules_from_catalogue import Reading
from scheduler.ingest.submit_request import SubmitRequest
from tests.jobs.manifest.helpers import rules

Rows = int | Sequence[Mapping[str, Any]]

MODEL = "sketcher"


@contextmanager
def order_for(
    manifest: Path,
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
    output: str = "/output",
    **policy: Any,
) -> Iterator[SubmitRequest]:
    """What a user submits, for a manifest on the disk."""
    with open_source(str(manifest)) as opened:
        yield SubmitRequest(
            opened, Reading(columns or {}, {}, strict), BatchPolicy(**policy), output, MODEL, name
        )


def submit(engine: Engine, order: SubmitRequest) -> Ingested:
    """Ingest by the rules of the tests' models."""
    return ingest(engine, order, rules(order.reading.columns, model=MODEL))


def await_feed(engine: Engine) -> None:
    """Wait until the feed shows all that is committed now: any older transaction of the server holds it back."""
    with engine.begin() as connection:
        mine = connection.execute(text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            oldest = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
            if connection.execute(oldest).scalar_one() > mine:
                return
        time.sleep(0.02)


def make_batch(engine: Engine, rows: Rows = 1, **options: Any) -> Ingested:
    """A batch of queued jobs; `rows` are manifest rows or how many of one lane. Each call gives a new batch."""
    with engine.connect() as connection:
        number = connection.execute(text("SELECT count(*) FROM batches")).scalar_one()
    given = [{"prompt": f"fox {i}"} for i in range(rows)] if isinstance(rows, int) else rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"batch-{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
        with order_for(path, **{"name": path.stem} | options) as order:
            batch = submit(engine, order)
    output = str(options.get("output", "s3://"))
    if not output.startswith("s3://"):
        own(engine, batch, output)
    return batch


def own(engine: Engine, batch: Ingested, output: str, s3: S3Options = S3Options()) -> ObjectStore:  # noqa: B008
    """Claim the batch's folder, as whoever submits does; returns the output's store."""
    store = open_store(output, s3)
    claim(engine, store, batch.id, batch.name)
    return store


def own_since(engine: Engine, batch: Ingested, output: str, days: int) -> None:
    """Let the batch and its folder be as old as that."""
    store = open_store(output, S3Options())
    owner = claim(engine, store, batch.id, batch.name)
    older = replace(owner, since=owner.since - timedelta(days=days))
    store.put(owner_key(batch.name), older.body(), content_type="application/json")
    change(
        engine,
        "UPDATE batches SET created_at = now() - make_interval(days => :days) WHERE id = :id",
        days=days,
        id=batch.id,
    )


def lanes_of(engine: Engine, batch: Ingested) -> list[LaneId]:
    """The batch's lanes in the order in which the manifest asked for them."""
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT id FROM lanes WHERE batch_id = :id ORDER BY id"), {"id": batch.id}
        )
        return list(found.scalars())


def make_lane(engine: Engine, jobs: int = 1, **options: Any) -> LaneId:
    """The only lane of a new batch of `jobs` queued jobs."""
    (lane,) = lanes_of(engine, make_batch(engine, jobs, **options))
    return lane


def take(
    engine: Engine, lane: LaneId, limit: int = 100, worker: str = "w1", lease_s: float = 60
) -> list[Job]:
    """Claim jobs of a lane."""
    return transitions.claim(engine, lane, limit=limit, worker=worker, lease_s=lease_s)


def take_one(engine: Engine, lane: LaneId, worker: str = "w1") -> Job:
    """Claim one job, which must be there."""
    (job,) = take(engine, lane, 1, worker)
    return job


def held(*jobs: Job) -> list[tuple[JobId, UUID]]:
    """As `extend` and `release` take it."""
    return [(job.id, job.lease) for job in jobs]


def image(job: Job, **changes: Any) -> Image:
    """What a worker brings for a claimed job that went well."""
    digest = hashlib.sha256(f"{job.id} {job.lease}".encode()).hexdigest()
    made = Image(
        id=job.id,
        lease=job.lease,
        key=f"batch/images/00000/{job.ordinal:09d}-{job.index}.{digest[:12]}.png",
        format="png",
        width=64,
        height=64,
        bytes=12_345,
        sha256=digest,
        prompt_tokens=4,
        prompt_truncated=False,
        model_revision="main",
        model_digest="0" * 64,
        upscaler_digest=None,
        safety_verdict="safe",
        safety_reason=None,
        safety_scores={"concepts": [-0.1, -0.2]},
        watermark="NMIL",
        watermark_bit_accuracy=1.0,
        watermark_method="dwtDctSvd",
        device="cpu",
        batch_rows=4,
        versions={"torch": "2"},
        timings={"generate": 0.5},
        quality={"clip_score": 31.25, "clip_model": "judge"},
        annotations={"sharpness": {"mean": 3.5}},
    )
    return replace(made, **changes)


def failure(job: Job, kind: ErrorKind = ErrorKind.MODEL, text: str = "it broke") -> Failure:
    """Why a claimed job gave no image."""
    return Failure(job.id, job.lease, kind, text)


def expire(engine: Engine, *jobs: Job) -> None:
    """Let leases run out, as if their workers had been silent for long."""
    change(
        engine,
        "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = ANY(:ids) AND lease IS NOT NULL",
        ids=[job.id for job in jobs],
    )


def age(engine: Engine, seconds: float, *batches: int) -> None:
    """Let batches have ended so long ago, all of them by default; lanes say when they ended as well."""
    chosen = "" if not batches else "AND {column} = ANY (:batches)"
    for table, column in (("lanes", "batch_id"), ("batches", "id")):
        change(
            engine,
            f"UPDATE {table} SET ended_at = now() - make_interval(secs => :seconds) "  # noqa: S608
            f"WHERE ended_at IS NOT NULL {chosen.format(column=column)}",
            seconds=seconds,
            **({"batches": list(batches)} if batches else {}),
        )


def change(engine: Engine, statement: str, **values: Any) -> None:
    """Run one statement past the queue's own."""
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def look(engine: Engine, statement: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a query."""
    with engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(text(statement), values)]


def job_row(engine: Engine, job: Job | JobId) -> dict[str, Any]:
    """One job as it stands in the table."""
    (row,) = look(engine, "SELECT * FROM jobs WHERE id = :id", id=job.id if isinstance(job, Job) else job)
    return row


def states(engine: Engine, batch: BatchId | None = None) -> dict[str, int]:
    """The truth: how many jobs each state has, those with none left out."""
    where = "WHERE CAST(:batch AS bigint) IS NULL OR batch_id = :batch"
    found = look(engine, f"SELECT state, count(*) AS n FROM jobs {where} GROUP BY 1", batch=batch)  # noqa: S608
    return {row["state"]: row["n"] for row in found}


def counted_jobs(engine: Engine, batch: BatchId | None = None) -> dict[str, int]:
    """What the table of counts says of the same."""
    where = "WHERE CAST(:batch AS bigint) IS NULL OR batch_id = :batch"
    found = look(engine, f"SELECT state, sum(delta) AS n FROM job_counts {where} GROUP BY 1", batch=batch)  # noqa: S608
    return {row["state"]: int(row["n"]) for row in found if row["n"]}


def lane_differences(engine: Engine) -> list[dict[str, Any]]:
    """Lanes and states where the job counts are not the truth; expected to be empty."""
    return look(
        engine,
        """
        SELECT batch_id, lane_id, state, coalesce(told, 0) AS told, coalesce(found, 0) AS found FROM (
            SELECT batch_id, lane_id, state, sum(delta) AS told FROM job_counts GROUP BY 1, 2, 3) AS t
        FULL JOIN (
            SELECT batch_id, lane_id, state, count(*) AS found FROM jobs GROUP BY 1, 2, 3) AS j
        USING (batch_id, lane_id, state) WHERE coalesce(told, 0) <> coalesce(found, 0)
        """,
    )


def wait_for_lock(engine: Engine, waiters: int = 1) -> None:
    """Until so many wait for others' transactions."""
    waiting = """
        SELECT count(*) AS n FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    while look(engine, waiting)[0]["n"] < waiters:
        time.sleep(0.01)
