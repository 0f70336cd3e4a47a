"""`max_queued`: a submit that leaves a tenant with more open jobs than it may have stores nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Engine

from jobs.errors import UsageError
from jobs.queue import transitions
from jobs.queue.tenant_queue_limits import TooManyOpenJobsError
from jobs.queue.tenants import set_tenant, tenants
from jobs.states import NO_LIMIT
from scheduler.ingest.ingest import ingest
from tests.factories import image, lanes_of, look, make_batch, order_for, take
from tests.jobs.manifest.helpers import rules


def rows(count: int, tenant: str = "ada") -> list[dict[str, object]]:
    return [{"prompt": f"fox {n}", "tenant": tenant} for n in range(count)]


def batches(engine: Engine) -> list[str]:
    return [row["name"] for row in look(engine, "SELECT name FROM batches ORDER BY id")]


def test_rows_beyond_the_limit_are_refused_with_the_numbers_and_nothing_is_stored(engine: Engine) -> None:
    set_tenant(engine, "ada", max_queued=5)
    first = make_batch(engine, rows(3), name="first")
    with pytest.raises(TooManyOpenJobsError) as refused:
        make_batch(engine, [*rows(9, "bob"), *rows(2), {"prompt": "a", "tenant": "ada", "num_images": 4}])
    assert "line 12: tenant ada may have 5 open jobs and has 3, and the manifest adds 6 up to here" in str(
        refused.value
    )
    assert "`nightmill tenants set ada --max-queued N`" in str(refused.value)
    assert refused.value.exit_code == 1
    assert batches(engine) == ["first"]
    assert look(engine, "SELECT count(*) AS n FROM jobs") == [{"n": 3}]
    make_batch(engine, rows(2), name="fits")
    with pytest.raises(TooManyOpenJobsError, match="has 5, and the manifest adds 1 up"):
        make_batch(engine, rows(1))
    transitions.complete(engine, [image(job) for job in take(engine, lanes_of(engine, first)[0])])
    make_batch(engine, rows(3), name="jobs-that-have-ended-do-not-count")
    set_tenant(engine, "ada", max_queued=NO_LIMIT)
    make_batch(engine, rows(9), name="without-a-limit")
    assert len(batches(engine)) == 4


def test_submits_at_once_that_fit_each_but_not_together(engine: Engine, tmp_path: Path) -> None:
    set_tenant(engine, "ada", max_queued=5)
    both_have_read = Barrier(2, timeout=30)

    def submit(name: str) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row | {"label": name}) + "\n" for row in rows(3)))
        with order_for(path) as order:
            try:
                found = ingest(
                    engine, order, rules({}, model="sketcher"), lambda _: both_have_read.wait() and None
                )
            except TooManyOpenJobsError as error:
                return str(error)
            return found.name

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(submit, ("one", "two")))
    (stored,) = batches(engine)
    (refused,) = [answer for answer in answers if answer != stored]
    assert "with it tenant ada would have 6 open jobs, and may have 5; nothing was stored" in refused
    assert look(engine, "SELECT count(*) AS n FROM jobs") == [{"n": 3}]


def test_what_a_target_adds_counts(engine: Engine) -> None:
    set_tenant(engine, "ada", max_queued=5)
    with pytest.raises(TooManyOpenJobsError, match="would have 6 open jobs, and may have 5"):
        make_batch(engine, rows(2), target=6)
    make_batch(engine, rows(2), target=5, name="fits")
    assert batches(engine) == ["fits"]


def test_a_limit_is_set_beside_the_others_and_of_one_tenant_alone(engine: Engine) -> None:
    set_tenant(engine, "ada", weight=3, max_running=7)
    set_tenant(engine, "ada", max_queued=5)
    set_tenant(engine, "ada", weight=2)
    (ada,) = tenants(engine)
    assert (ada["weight"], ada["max_running"], ada["max_queued"]) == (2, 7, 5)
    with pytest.raises(UsageError, match="open jobs are limited for each"):
        set_tenant(engine, "*", max_queued=5)
    with pytest.raises(UsageError, match="a limit of open jobs is between 0 and"):
        set_tenant(engine, "ada", max_queued=10**12)
