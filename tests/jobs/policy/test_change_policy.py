"""Keys of a policy that is stored are changed, and others are left alone."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.errors import UsageError
from tests.factories import change, look, make_batch

COLUMNS = 'SELECT policy, priority, "window", opens_at IS NOT NULL AS has_window FROM batches'


def test_columns_and_stored_keys_are_changed_and_taken_back(engine: Engine) -> None:
    batch = make_batch(engine, 1, quality=80, priority=2, batch_seed=0).id
    change(engine, """UPDATE batches SET policy = policy || '{"grain": 3}'""")
    actions.change(engine, batch, {"safety": "flag", "window": "22:00-07:00 UTC"})
    assert look(engine, COLUMNS) == [
        {
            "policy": {"quality": 80, "grain": 3, "safety": "flag"},
            "priority": 2,
            "window": "22:00-07:00 UTC",
            "has_window": True,
        }
    ]
    actions.change(engine, batch, {"safety": "block", "quality": 95, "window": None, "priority": 0})
    assert look(engine, COLUMNS) == [
        {"policy": {"grain": 3}, "priority": 0, "window": None, "has_window": False}
    ]


def test_what_would_be_wrong_together_is_refused(engine: Engine) -> None:
    batch = make_batch(engine, 1, not_before=datetime(2100, 1, 2, tzinfo=UTC)).id
    with pytest.raises(UsageError, match="the deadline is not after not_before"):
        actions.change(engine, batch, {"deadline": datetime(2100, 1, 1, tzinfo=UTC)})
    assert look(engine, "SELECT deadline FROM batches") == [{"deadline": None}]
