"""Pools: which lanes a pool's workers are given, and who may join or remove one."""

from importlib.metadata import version

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.errors import UsageError
from jobs.queue.fair_share import pick_lane, waiting_lanes
from jobs.queue.transitions import complete
from jobs.queue.worker_health_reports import waiting
from jobs.queue.worker_pools import join_pool, pools, remove_pool, set_pool, wanted_workers
from jobs.queue.worker_registry import WorkerReport, report_worker, workers
from jobs.states import NO_LIMIT, WorkerActivity
from tests.factories import change, image, lanes_of, make_batch, make_lane, take


def picked_by(engine: Engine, pool: str) -> list[int]:
    """The lanes that workers of the pool are given, one after the other."""
    found = [pick_lane(engine, slice_s=1, pool=pool) for _ in range(4)]
    return [one.lane for one in found if one]


def two_lanes(engine: Engine) -> tuple[int, int]:
    """A lane of the model `sketcher`, and one of `painter`."""
    first, second = lanes_of(engine, make_batch(engine)) + lanes_of(engine, make_batch(engine))
    change(engine, "UPDATE lanes SET model = 'painter' WHERE id = :id", id=second)
    return first, second


def test_a_pools_workers_are_given_lanes_of_its_models_alone(engine: Engine) -> None:
    first, second = two_lanes(engine)
    set_pool(engine, "paint", models=["painter"])
    assert set(picked_by(engine, "default")) == {first, second}
    assert set(picked_by(engine, "paint")) == {second}
    assert waiting_lanes(engine, 9, "paint") == [second]
    set_pool(engine, "default", models=["sketcher"])
    assert set(picked_by(engine, "default")) == {first}


def test_a_change_of_models_is_heeded_at_the_next_pick_and_a_pool_that_is_gone_serves_none(
    engine: Engine,
) -> None:
    first, second = two_lanes(engine)
    set_pool(engine, "paint", models=["painter"])
    set_pool(engine, "paint", models=["sketcher"])
    assert set(picked_by(engine, "paint")) == {first}
    set_pool(engine, "paint", models=())
    assert set(picked_by(engine, "paint")) == {first, second}
    remove_pool(engine, "paint")
    assert picked_by(engine, "paint") == waiting_lanes(engine, 9, "paint") == []


def test_what_is_not_given_stays(engine: Engine) -> None:
    set_pool(engine, "paint", models=["b", "a", "a"], max_workers=4, idle_s=60)
    set_pool(engine, "paint", target_s=900)
    set_pool(engine, "paint", start_s=0)
    _, paint = pools(engine)
    assert paint.report() == {
        "name": "paint",
        "models": ["a", "b"],
        "max_workers": 4,
        "idle_s": 60,
        "target_s": 900,
        "start_s": 0,
        "wanted": 0,
        "workers": 0,
        "drained": 0,
    }
    set_pool(engine, "paint", max_workers=NO_LIMIT)
    assert pools(engine)[1].max_workers is None


def test_a_worker_may_create_its_pool_but_not_change_it(engine: Engine) -> None:
    join_pool(engine, "default", (), 32)
    join_pool(engine, "paint", ("painter", "sketcher"), 16)
    join_pool(engine, "paint", ("sketcher", "painter"), 16)
    join_pool(engine, "paint", (), 16)
    with pytest.raises(
        UsageError, match="pool 'paint' serves painter, sketcher, not painter: `nightmill pools set"
    ):
        join_pool(engine, "paint", ("painter",), 16)
    with pytest.raises(UsageError, match="pool 'default' serves all models, not painter"):
        join_pool(engine, "default", ("painter",), 16)
    with pytest.raises(UsageError, match="no pool 'pain': did you mean 'paint'"):
        join_pool(engine, "pain", (), 16)


def test_a_pool_with_workers_is_not_removed_nor_is_the_default_one(engine: Engine) -> None:
    join_pool(engine, "paint", ("painter",), 16)
    report_worker(engine, WorkerReport("host:1", "cpu:0", "paint"))
    with pytest.raises(UsageError, match="pool 'paint' has workers"):
        remove_pool(engine, "paint")
    with pytest.raises(UsageError, match="'default' stays"):
        remove_pool(engine, "default")
    with pytest.raises(UsageError, match="no pool 'pain': did you mean"):
        remove_pool(engine, "pain")
    change(engine, "UPDATE workers SET seen_at = now() - interval '5 minutes'")
    remove_pool(engine, "paint")
    assert wanted_workers(engine, "paint") is None


def test_workers_are_listed_with_what_they_do(engine: Engine) -> None:
    (lane,) = lanes_of(engine, make_batch(engine))
    report_worker(
        engine, WorkerReport("a:1", "cuda:0", "default", WorkerActivity.BUSY, lane, frozenset({"z", "y"}))
    )
    report_worker(engine, WorkerReport("a:2", "cuda:1", "default"))
    report_worker(engine, WorkerReport("b:3", "cpu:0", "paint", WorkerActivity.DRAINING))
    change(engine, "UPDATE workers SET seen_at = now() - interval '2 minutes' WHERE name = 'b:3'")
    change(
        engine,
        """UPDATE workers SET state = 'unhealthy', reason = 'no disk', since = now() - interval '1 hour',
        activity_since = now() WHERE name = 'a:2'""",
    )
    busy, broken, lost = workers(engine)
    assert (busy.shown_state, busy.batch, busy.model, busy.warm_models) == (
        "busy",
        "batch-0",
        "sketcher",
        ["y", "z"],
    )
    assert (broken.shown_state, broken.reason, broken.shown_since) == ("unhealthy", "no disk", broken.since)
    assert (lost.shown_state, lost.pool, lost.shown_since) == ("lost", "paint", lost.seen_at)
    told = busy.report()
    assert (told["host"], told["lane"], told["version"]) == ("a", lane, version("nightmill"))


def test_a_workers_pace_is_that_of_the_last_minutes(engine: Engine) -> None:
    for name in ("a:1", "a:2", "b:1"):
        report_worker(engine, WorkerReport(name, "cpu:0", "default"))
    change(engine, "UPDATE workers SET started_at = now() - interval '1 hour' WHERE name <> 'a:2'")
    change(engine, "UPDATE workers SET started_at = now() - interval '100 s' WHERE name = 'a:2'")
    old, lane = make_lane(engine, 5), make_lane(engine, 60)
    for which, number, worker in ((old, 5, "a:1"), (lane, 30, "a:1"), (lane, 30, "a:2")):
        complete(engine, [image(job) for job in take(engine, which, number, worker=worker)])
    change(engine, "UPDATE images SET created_at = now() - interval '3 minutes' WHERE batch_id = 1")
    assert [worker.images_per_s for worker in workers(engine)] == pytest.approx([0.25, 0.3, 0], rel=0.1)


def test_the_time_of_a_state_begins_with_it(engine: Engine) -> None:
    report_worker(engine, WorkerReport("a:1", "cpu:0", "default"))
    change(
        engine,
        "UPDATE workers SET activity_since = now() - interval '1 hour', seen_at = now() - interval '1 hour'",
    )
    (before,) = workers(engine)
    report_worker(engine, WorkerReport("a:1", "cpu:0", "default"))
    (same,) = workers(engine)
    report_worker(engine, WorkerReport("a:1", "cpu:0", "default", WorkerActivity.IDLE))
    (after,) = workers(engine)
    assert same.activity_since == before.activity_since
    assert (before.shown_state, same.shown_state, after.shown_state) == ("lost", "starting", "idle")
    assert after.shown_since > same.shown_since


def test_a_batch_whose_model_no_worker_processes_says_so(engine: Engine) -> None:
    batch = make_batch(engine)
    assert waiting(engine).reason(batch.id) is None, "nobody has started yet"
    set_pool(engine, "paint", models=["painter"])
    report_worker(engine, WorkerReport("host:1", "cpu:0", "paint"))
    reason = actions.status(engine, batch.name).waiting
    assert reason is not None
    assert reason.startswith(
        "no worker processes the model 'sketcher': `nightmill worker --pool default` would"
    )
    set_pool(engine, "default", models=["painter"])
    assert waiting(engine).reason(batch.id) == (
        "no pool processes the model 'sketcher'; `nightmill pools` lists them"
    )
    report_worker(engine, WorkerReport("host:2", "cpu:0", "default"))
    set_pool(engine, "default", models=())
    assert waiting(engine).reason(batch.id) is None
