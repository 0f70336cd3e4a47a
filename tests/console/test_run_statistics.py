"""What `run` tells of its workers' effort."""

import pytest
from sqlalchemy import Engine

from console.run_statistics import effort
from jobs.job_dataclasses import BatchId
from jobs.queue import transitions
from tests.factories import change, image, look, make_lane, take


@pytest.mark.parametrize(
    ("workers", "drawing_s", "share"),
    [
        (["w1", "w1", "w1", "w1"], 2.0, 0.8),  # one worker alone
        (["w1", "w1", "w2", "w2"], 4.0, 0.8),  # another command's worker helped: not 160 %
        (["w1", "w1", "w1", "w1"], 3.0, 1.0),  # drawing had begun before
    ],
)
def test_the_share_of_drawing_is_of_those_that_took_part(
    engine: Engine, workers: list[str], drawing_s: float, share: float
) -> None:
    lane = make_lane(engine, len(workers))
    since = look(engine, "SELECT now() AS now")[0]["now"]
    for worker in workers:
        for job in take(engine, lane, 1, worker):
            transitions.complete(engine, [image(job, timings={"generate": drawing_s})])
    change(engine, "UPDATE images SET created_at = :since + interval '10 seconds'", since=since)
    made = effort(engine, BatchId(1), since)
    assert (made.images, made.seconds, made.workers) == (4, 10.0, len(set(workers)))
    assert made.drawing_share == pytest.approx(share)
