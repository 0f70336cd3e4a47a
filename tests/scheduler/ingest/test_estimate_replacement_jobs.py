"""How many replacements a target is expected to need, by what was lost so far."""

import pytest
from sqlalchemy import Engine

from jobs.queue import transitions
from jobs.states import ErrorKind
from scheduler.ingest.estimate_replacement_jobs import expected_replacements, measured_losses
from tests.factories import failure, image, make_batch, make_lane, take


def test_losses_are_those_of_each_model(engine: Engine) -> None:
    assert measured_losses(engine) == {}
    make_batch(engine, [{"prompt": "a", "model": "painter"}])
    jobs = take(engine, make_lane(engine, 8), limit=6)
    transitions.block(engine, [failure(jobs[0], ErrorKind.SAFETY)])
    transitions.fail(engine, [failure(jobs[1], ErrorKind.BAD_INPUT)], delay_s=0)
    transitions.complete(engine, [image(job) for job in jobs[2:5]])
    assert measured_losses(engine) == {"sketcher": 0.4}, "open jobs and models that made nothing don't count"


@pytest.mark.parametrize(
    ("images", "ratio", "losses", "expected"),
    [
        ({"": 10}, 1.0, {}, 0),
        ({"": 10}, 1.0, {"a": 0.2}, 2),  # 8 of 10 are kept, 2 made anew, of which 0.4 are lost …
        ({"cat": 10, "dog": 30}, 1.0, {"a": 0.2}, 2 + 8),
        ({"cat": 3, "dog": 3}, 1.0, {"a": 0.2}, 5),  # filled up to 10 each before
        ({"cat": 10, "dog": 10}, 0.1, {"a": 0.5}, 2),
        ({"": 10}, 1.0, {"a": 1.0}, 10),
        ({"": 10}, 1.0, {"a": 0.0, "b": 0.4}, 2),
    ],
)
def test_what_is_lost_again_is_replaced_again_up_to_the_ratio(
    images: dict[str, int], ratio: float, losses: dict[str, float], expected: int
) -> None:
    jobs = dict.fromkeys(losses, 5) or {"a": 10}
    assert expected_replacements(images, 10, ratio, jobs, losses) == expected
