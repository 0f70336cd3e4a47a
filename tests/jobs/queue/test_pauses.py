"""Pauses by name, of a tenant and of all: a batch goes on when the last of them has ended."""

import pytest
from sqlalchemy import Engine

from jobs.batches.actions import status
from jobs.errors import UsageError
from jobs.queue import pauses
from jobs.queue.pauses import BY_NAME, OF_ALL, end_pause, of_tenant, pause, resume
from jobs.states import BatchState
from tests.factories import change, make_batch

OF_ADA = of_tenant("ada")


def by(engine: Engine) -> list[str]:
    return [each["by"] for each in status(engine, "foxes").standing_pauses]


def is_paused(engine: Engine) -> bool:
    return status(engine, "foxes").state == BatchState.PAUSED


@pytest.mark.parametrize("first", [BY_NAME, OF_ALL, OF_ADA])
@pytest.mark.parametrize("second", [OF_ALL, OF_ADA])
def test_the_end_of_a_groups_pause_ends_that_one_alone(engine: Engine, first: str, second: str) -> None:
    batch = make_batch(engine, 1, name="foxes").id
    pause(engine, batch, first)
    pause(engine, batch, second)
    assert set(by(engine)) == {first, second}
    end_pause(engine, batch, second)
    assert is_paused(engine) == (first != second)
    end_pause(engine, batch, first)
    assert (is_paused(engine), by(engine)) == (False, [])


def test_a_resume_by_name_ends_every_pause(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes").id
    for group in (BY_NAME, OF_ALL, OF_ADA):
        pause(engine, batch, group)
    resume(engine, batch)
    assert (is_paused(engine), by(engine)) == (False, [])


def test_a_pause_of_an_earlier_version_outlasts_the_pause_of_all(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes").id
    change(engine, "UPDATE batches SET paused_at = now()")
    assert by(engine) == [BY_NAME]
    pause(engine, batch, OF_ALL)
    end_pause(engine, batch, OF_ALL)
    assert (is_paused(engine), by(engine)) == (True, [BY_NAME])


def test_records_that_an_earlier_versions_resume_left_count_no_more(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes").id
    pause(engine, batch, BY_NAME, who="ada@host", reason="the GPU is hot")
    change(engine, "UPDATE batches SET paused_at = NULL")
    assert by(engine) == []
    end_pause(engine, batch, BY_NAME)
    pause(engine, batch, OF_ALL)
    assert by(engine) == [OF_ALL]


def test_a_batch_that_its_canary_stopped_stays_so_until_it_is_named(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes").id
    pause(engine, batch, OF_ALL)
    change(engine, "UPDATE batches SET canary_verdict = 'stopped', stopped_because = 'canary'")
    end_pause(engine, batch, OF_ALL)
    assert (is_paused(engine), by(engine)) == (True, [])
    pause(engine, batch, OF_ALL)
    assert by(engine) == [OF_ALL], "and none by name"
    resume(engine, batch)
    found = status(engine, "foxes")
    assert (found.state, found.canary_verdict, found.stopped_because) == (
        BatchState.QUEUED,
        "overruled",
        None,
    )


def test_a_reason_stays_until_another_is_given(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes").id
    pause(engine, batch, who="ada@host", reason="the GPU is hot")
    pause(engine, batch, who="bob@host")
    (found,) = status(engine, "foxes").report()["pauses"]
    assert (found["by"], found["who"], found["reason"]) == ("name", "bob@host", "the GPU is hot")
    pause(engine, batch, who="bob@host", reason="a long lunch")
    assert status(engine, "foxes").standing_pauses[0]["reason"] == "a long lunch"
    change(engine, "UPDATE batches SET cancelled_at = now()")
    with pytest.raises(UsageError, match="cancelled batch can't be paused"):
        pauses.pause(engine, batch)
