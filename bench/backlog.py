"""A job table with as many queued jobs as wanted, filled by the server itself."""

from dataclasses import dataclass

from sqlalchemy import Engine, insert, text

from bench.place import settle, vacuum
from jobs import queue, schema
from jobs.database import run
from jobs.job import BatchId, Image, Job, LaneId
from jobs.policy import parse_policy

LEASE_S = 3600

_FILL = text("""
    WITH added AS (
        INSERT INTO jobs (batch_id, lane_id, ordinal, index, row_id, prompt, negative_prompt, steps, guidance_scale,
            sampler, seed, meta)
        SELECT :batch, :lane, n, 0, 'row-' || n, 'a heron in morning fog, oil painting, muted colours, take ' || n,
            'blurred, text', :steps, 7.5, 'ddim', n, jsonb_build_object('label', n % 10)
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
        RETURNING 1
    )
    INSERT INTO tallies (batch_id, lane_id, state, delta)
    SELECT :batch, :lane, 'queued', count(*) FROM added RETURNING delta
""")


@dataclass
class Backlog:
    """One lane of one batch; `added` jobs have been put into it."""

    engine: Engine
    name: str
    batch: BatchId
    lane: LaneId
    steps: int
    added: int = 0
    claimed: int = 0

    def fill(self, queued: int) -> None:
        """Add what is missing to `queued` jobs that wait."""
        missing = queued - (self.added - self.claimed)
        last = self.added + missing - 1
        values = {
            "batch": self.batch,
            "lane": self.lane,
            "steps": self.steps,
            "first": self.added,
            "last": last,
        }
        run(self.engine, _FILL, values)
        if not self.added:
            vacuum(self.engine, "jobs")
            settle(self.engine)
        self.added += missing

    def claim(self, limit: int) -> list[Job]:
        """Claim as a worker does."""
        jobs = queue.claim(self.engine, self.lane, limit=limit, worker="bench", lease_s=LEASE_S)
        self.claimed += len(jobs)
        return jobs


def open_backlog(engine: Engine, name: str, output: str, *, steps: int = 10) -> Backlog:
    """A batch of 64 px tiny-random images with one lane and no jobs yet."""
    policy = parse_policy({}).model_dump(mode="json")
    values = {
        "name": name,
        "digest": name,
        "manifest": f"{name}.jsonl",
        "manifest_sha256": "0" * 64,
        "settings": {},
        "output": output,
        "seed": policy.pop("batch_seed"),
        **policy,
    }
    with engine.begin() as connection:
        batch = connection.execute(
            insert(schema.batches).values(values).returning(schema.batches.c.id)
        ).scalar_one()
        shape = {"batch_id": batch, "model": "tiny-random", "width": 64, "height": 64, "upscale": 0}
        lane = connection.execute(
            insert(schema.lanes).values(shape).returning(schema.lanes.c.id)
        ).scalar_one()
    return Backlog(engine, name, batch, lane, steps)


def image_of(job: Job) -> Image:
    """What a worker brings for a finished job, of the size that it really has."""
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
        device="bench",
        batch_rows=4,
        versions={"python": "3", "torch": "2", "diffusers": "0", "transformers": "5"},
        timings=dict.fromkeys(
            ("prompt", "generate", "safety", "watermark", "encode", "readback", "upload"), 0.01
        ),
    )
