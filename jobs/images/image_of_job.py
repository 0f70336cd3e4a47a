"""The image row of a job, as told to somebody who has found its picture."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run

_ROW = text("""
    SELECT i.id AS image, b.id AS batch, b.name, i.ordinal, i."index", i.row_id, i.prompt, i.model, i.seed,
        i.safety_verdict, i.watermark, i.sha256, i.created_at
    FROM images i JOIN batches b ON b.id = i.batch_id WHERE i.job_id = :job
""")


def image_of_job(engine: Engine, job: int) -> dict[str, Any] | None:
    """Return where the image of a job is, and how it was drawn; None if there is no such row (any more)."""
    for row in run(engine, _ROW, {"job": job}):
        return dict(row._mapping)
    return None
