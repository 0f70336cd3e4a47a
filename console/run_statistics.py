"""Count what a run rendered: images, rendering time, truncated prompts."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId

_EFFORT = text("""
    SELECT count(*) AS images, count(reused_from) AS reused, coalesce(sum(
        coalesce((timings ->> 'generate')::float, 0) + coalesce((timings ->> 'upscale')::float, 0)
        + coalesce((timings ->> 'upscale_input')::float, 0)), 0) AS drawing_s,
        coalesce(extract(epoch FROM max(created_at) - :since), 0) AS seconds, count(DISTINCT worker) AS workers
    FROM images WHERE batch_id = :batch AND created_at > :since
""")


_TRUNCATED = text("SELECT count(*) AS images FROM images WHERE batch_id = :batch AND prompt_truncated")


def truncated(engine: Engine, batch: BatchId) -> int:
    """Count the images whose prompt or negative prompt exceeds the model's token limit."""
    images: int = run(engine, _TRUNCATED, {"batch": batch})[0].images
    return images


@dataclass(frozen=True)
class Effort:
    """Work done on a batch since a moment: images, seconds until the last one, total rendering seconds of the workers.

    `reused` of the images were copied. `workers` counts all that took part, including those that another command
    started.
    """

    images: int
    reused: int
    seconds: float
    drawing_s: float
    workers: int

    @property
    def drawing_share(self) -> float:
        """Share of the workers' time spent on rendering, 0 to 1; images from before that moment don't count twice."""
        return min(1.0, self.drawing_s / max(1e-3, self.seconds * max(1, self.workers)))


def effort(engine: Engine, batch: BatchId, since: object) -> Effort:
    """Return the work that was done on the batch since a moment."""
    row = run(engine, _EFFORT, {"batch": batch, "since": since})[0]
    return Effort(row.images, row.reused, float(row.seconds), float(row.drawing_s), row.workers)
