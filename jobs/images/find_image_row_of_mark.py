"""The image row of a job, as told to somebody who has found its picture."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run

_ROWS = """
    SELECT i.id AS image, i.job_id AS job, b.id AS batch, b.name, i.ordinal, i."index", i.row_id, i.prompt, i.model,
        i.seed, i.safety_verdict, i.watermark, i.sha256, i.created_at
    FROM images i JOIN batches b ON b.id = i.batch_id WHERE {condition}
"""
_OF_JOB = text(_ROWS.format(condition="i.job_id = :job"))
_COPY = text(_ROWS.format(condition="i.watermark = :mark ORDER BY i.id LIMIT 1"))


def image_of_mark(engine: Engine, job: int, mark: str) -> dict[str, Any] | None:
    """Return where the image of a job is, and how it was drawn; if it is gone, the first copy that bears its mark.

    None if there is none of them any more. Looking for a copy reads all image rows.
    """
    for statement, values in ((_OF_JOB, {"job": job}), (_COPY, {"mark": mark})):
        for row in run(engine, statement, values):
            return dict(row._mapping)
    return None
