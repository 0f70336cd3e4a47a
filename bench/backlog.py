"""A job table with any number of queued jobs, filled by the server itself."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Engine, insert, text

from bench.harness.services import settle, vacuum
from jobs.db import schema
from jobs.db.engine import run
from jobs.job_dataclasses import BatchId, Image, Job, JobId, LaneId
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import row_of
from jobs.queue import transitions

LEASE_S = 3600
START = JobId(0)
MANY = 1_000_000  # the most that one statement adds

_FILL = text("""
    WITH added AS (
        INSERT INTO jobs (batch_id, lane_id, ordinal, index, row_id, prompt, negative_prompt, steps, guidance_scale,
            sampler, seed, meta)
        SELECT :batch, :lane, n, 0, 'row-' || n, 'a heron in morning fog, oil painting, muted colours, take ' || n,
            'blurred, text', :steps, 7.5, 'ddim', n, jsonb_build_object('label', n % 10)
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
        RETURNING 1
    )
    INSERT INTO job_counts (batch_id, lane_id, state, delta)
    SELECT :batch, :lane, 'queued', count(*) FROM added RETURNING delta
""")


_KEYS = text("""
    SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE conrelid = 'jobs'::regclass AND contype IN ('p', 'u') ORDER BY contype
""")
_INDEXES = text("""
    SELECT pg_get_indexdef(indexrelid) AS indexdef FROM pg_index
    WHERE indrelid = 'jobs'::regclass AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
""")


@dataclass
class Backlog:
    """One lane of one batch, to which `added` jobs have been added."""

    engine: Engine
    name: str
    batch: BatchId
    lane: LaneId
    steps: int
    added: int = 0
    claimed: int = 0
    after: JobId = START

    def fill(self, queued: int) -> None:
        """Add jobs until `queued` of them wait."""
        missing = queued - (self.added - self.claimed)
        if missing <= 0:
            return
        with _without_indexes(self.engine) if missing >= MANY else nullcontext():
            while missing:
                missing -= self._add(min(missing, MANY))
        vacuum(self.engine, "jobs")
        settle(self.engine)

    def claim(self, limit: int) -> list[Job]:
        """Claim like a worker that continues in its lane."""
        jobs = transitions.claim(
            self.engine, self.lane, limit=limit, worker="bench", lease_s=LEASE_S, after=self.after
        )
        self.after = max((job.id for job in jobs), default=self.after)
        self.claimed += len(jobs)
        return jobs

    def _add(self, count: int) -> int:
        place = {"first": self.added, "last": self.added + count - 1}
        run(self.engine, _FILL, {"batch": self.batch, "lane": self.lane, "steps": self.steps} | place)
        self.added += count
        return count


@contextmanager
def _without_indexes(engine: Engine) -> Iterator[None]:
    """Drop the indexes of `jobs` and rebuild them afterwards, which is faster than updating them row by row."""
    indexes = [row.indexdef for row in run(engine, _INDEXES, {})]
    keys = run(engine, _KEYS, {})
    with engine.begin() as connection:
        for name in [
            definition.split()[2 + definition.startswith("CREATE UNIQUE")] for definition in indexes
        ]:
            connection.exec_driver_sql(f"DROP INDEX {name}")
        for key in keys:
            connection.exec_driver_sql(f"ALTER TABLE jobs DROP CONSTRAINT {key.conname}")
    yield
    with engine.begin() as connection:
        connection.exec_driver_sql("SET maintenance_work_mem = '1GB'")
        for key in keys:
            connection.exec_driver_sql(f"ALTER TABLE jobs ADD CONSTRAINT {key.conname} {key.definition}")
        for definition in indexes:
            connection.exec_driver_sql(definition)


def open_backlog(
    engine: Engine,
    name: str,
    output: str,
    *,
    steps: int = 10,
    side: int = 64,
    policy: BatchPolicy | None = None,
) -> Backlog:
    """Create a batch of tiny-random images, `side` pixels wide and high, with one lane and no jobs yet."""
    values = {
        "name": name,
        "digest": name,
        "manifest": f"{name}.jsonl",
        "manifest_sha256": "0" * 64,
        "settings": {},
        "output": output,
        **row_of(policy or BatchPolicy()),
    }
    with engine.begin() as connection:
        batch = connection.execute(
            insert(schema.batches).values(values).returning(schema.batches.c.id)
        ).scalar_one()
        shape = {"batch_id": batch, "model": "tiny-random", "width": side, "height": side, "upscale": 0}
        lane = connection.execute(
            insert(schema.lanes).values(shape).returning(schema.lanes.c.id)
        ).scalar_one()
    return Backlog(engine, name, batch, lane, steps)


def image_of(job: Job) -> Image:
    """Return an image row for a finished job, of the size that a worker's has."""
    return Image(
        id=job.id,
        lease=job.lease,
        key=f"backlog/images/{job.ordinal // 1000:06d}/{job.ordinal:09d}-{job.index:05d}.0123456789ab.png",
        format="png",
        width=64,
        height=64,
        bytes=12_000,
        sha256="0" * 64,
        prompt_tokens=14,
        prompt_truncated=False,
        model_revision="random-1",
        model_digest="0" * 64,
        upscaler_digest=None,
        safety_verdict="safe",
        safety_reason=None,
        safety_scores={"concepts": [-0.25] * 17, "special_care": [-0.25] * 3},
        watermark="NMIL",
        watermark_bit_accuracy=1.0,
        watermark_method="dwtDctSvd",
        device="bench",
        batch_rows=4,
        versions={"python": "3", "torch": "2", "diffusers": "0", "transformers": "5"},
        timings=dict.fromkeys(
            ("prompt_filter", "generate", "safety", "watermark", "encode", "verify_watermark", "upload"), 0.01
        ),
    )
