"""How many replacements a batch with a target will need, by what became of this installation's jobs so far."""

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.states import WITH_ERROR, JobState

_COUNTED = text("""
    SELECT model, state, CAST(sum(delta) AS bigint) AS jobs
    FROM job_counts JOIN lanes ON lanes.id = lane_id AND lanes.batch_id = job_counts.batch_id GROUP BY model, state
""")
_WITH_IMAGE = (JobState.DONE, JobState.RETRACTED)


def measured_losses(engine: Engine) -> dict[str, float]:
    """Return, for each model that has rendered here, the share of its jobs that failed or were blocked."""
    lost: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for row in run(engine, _COUNTED, {}):
        lost[row.model] += row.jobs if row.state in WITH_ERROR else 0
        ended[row.model] += row.jobs if row.state in (*WITH_ERROR, *_WITH_IMAGE) else 0
    return {model: lost[model] / number for model, number in sorted(ended.items()) if number}


def expected_replacements(
    images: Mapping[str, int], target: int, ratio: float, jobs: Mapping[str, int], losses: Mapping[str, float]
) -> int:
    """Return how many replacements are expected for the images of each value, each of which may be lost as well.

    `jobs` counts the batch's jobs by model, whose measured losses are averaged; `ratio` is `max_replacement_ratio`. A
    model that hasn't been measured is expected to lose nothing.
    """
    lost = sum(count * losses.get(model, 0.0) for model, count in jobs.items()) / max(1, sum(jobs.values()))
    most = int(target * ratio)
    needed = [max(target, count) * lost / (1 - lost) if lost < 1 else most for count in images.values()]
    return round(sum(min(most, number) for number in needed))
