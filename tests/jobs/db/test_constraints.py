"""Rows that contradict themselves: the tables refuse them, whoever writes."""

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from jobs.db import schema
from jobs.queue import transitions
from tests.factories import change, image, make_lane, take_one

LEASED = "lease = gen_random_uuid(), lease_until = now()"


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("state", "state = 'lost'"),
        ("lease", f"{LEASED}"),
        ("lease", f"state = 'done', attempt = 1, finished_at = now(), {LEASED}"),
        ("lease", "state = 'running', attempt = 1"),
        ("lease_until", "state = 'running', attempt = 1, lease = gen_random_uuid()"),
        ("lease_until", "lease_until = now()"),
        ("finished_at", "state = 'done', attempt = 1"),
        ("finished_at", "state = 'cancelled'"),
        ("finished_at", "finished_at = now()"),
        ("error_kind", "state = 'failed', finished_at = now()"),
        ("error_kind", "state = 'blocked', finished_at = now()"),
        ("attempt", "attempt = -1"),
        ("attempt", f"state = 'running', {LEASED}"),
        ("attempt", "state = 'done', finished_at = now()"),
        ("seed", "seed = -1"),
        ("seed", "seed = 18446744073709551616"),
    ],
)
def test_a_job_can_not_contradict_itself(engine: Engine, constraint: str, changes: str) -> None:
    make_lane(engine, 1)
    with pytest.raises(IntegrityError, match=rf'"jobs_{constraint}_check"'):
        change(engine, f"UPDATE jobs SET {changes}")  # noqa: S608


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("name", "name = 'Über'"),
        ("name", "name = '../x'"),
        ("name", "name = ''"),
        ("policy", "policy = '[]'"),
        ("canary", "canary_bound = 2"),
        ("max_attempts", "max_attempts = 0"),
    ],
)
def test_a_batch_keeps_to_what_is_allowed(engine: Engine, constraint: str, changes: str) -> None:
    make_lane(engine, 1)
    with pytest.raises(IntegrityError, match=rf'"batches_{constraint}_check"'):
        change(engine, f"UPDATE batches SET {changes}")  # noqa: S608


@pytest.mark.parametrize(
    ("constraint", "wrong"),
    [
        ("sha256", {"sha256": "abc"}),
        ("watermark_bit_accuracy", {"watermark_bit_accuracy": 1.01}),
        ("watermark_strength", {"watermark_strength": "fair"}),
        ("watermark_method", {"watermark_method": "rivaGan"}),
        ("safety_verdict", {"safety_verdict": "blocked"}),
    ],
)
def test_an_image_that_can_not_be_leaves_its_job_running(
    engine: Engine, constraint: str, wrong: dict[str, object]
) -> None:
    job = take_one(engine, make_lane(engine, 1))
    with pytest.raises(IntegrityError, match=rf'"images_{constraint}_check"'):
        transitions.complete(engine, [image(job, **wrong)])
    transitions.complete(engine, [image(job)])


def test_a_job_is_there_once_a_row_and_index(engine: Engine) -> None:
    make_lane(engine, 2)
    with pytest.raises(IntegrityError, match='"jobs_batch_id_ordinal_index_key"'):
        change(engine, "UPDATE jobs SET ordinal = 0")


@pytest.mark.parametrize(
    ("job", "ordinal", "constraint"),
    [(0, 1, "images_job_id_key"), (1, 0, "images_batch_id_ordinal_index_key")],
)
def test_a_job_has_one_image_at_most(engine: Engine, job: int, ordinal: int, constraint: str) -> None:
    """The last line behind the lease: a second image of a job is refused by the table."""
    transitions.complete(engine, [image(take_one(engine, make_lane(engine, 1)))])
    own = {"id", "xid", "job_id", "ordinal"}
    rest = ", ".join(f'"{column.name}"' for column in schema.images.columns if column.name not in own)
    insert = f"""
        INSERT INTO images (job_id, ordinal, {rest}) SELECT job_id + :job, ordinal + :ordinal, {rest} FROM images
    """  # noqa: S608
    with pytest.raises(IntegrityError, match=constraint):
        change(engine, insert, job=job, ordinal=ordinal)
    change(engine, insert, job=1, ordinal=1)
