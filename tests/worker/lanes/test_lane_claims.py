"""How many jobs a claim takes: a time slice's by the lane's pace, within bounds."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from jobs.queue import transitions
from jobs.settings import Settings
from tests.factories import change, make_lane
from worker.lanes.lane_claims import claim_limit


@pytest.mark.parametrize(
    ("image_s", "claim", "limit"),
    [
        (None, 32, 32),
        (0.0, 32, 32),
        (0.5, 32, 32),
        (2.5, 32, 24),
        (7.0, 32, 9),
        (60.0, 32, 8),
        (3600.0, 32, 8),
        (60.0, 3, 3),
        (0.001, 1000, 1000),
    ],
)
def test_slow_images_are_claimed_by_the_time_slice(
    settings: Settings, engine: Engine, image_s: float | None, claim: int, limit: int
) -> None:
    lane = transitions.open_lane(engine, make_lane(engine))
    assert lane is not None
    own = settings.model_copy(update={"claim": claim, "time_slice_s": 60})
    assert claim_limit(replace(lane, image_s=image_s), own) == limit


def test_a_lane_knows_its_pace_and_is_the_same_lane_at_another(engine: Engine) -> None:
    lane = make_lane(engine)
    before = transitions.open_lane(engine, lane)
    change(engine, "UPDATE lanes SET image_s = 12.5")
    after = transitions.open_lane(engine, lane)
    assert before is not None
    assert after is not None
    assert (before.image_s, after.image_s) == (None, 12.5)
    assert before == after
