"""Hosts and workers that an operator has drained: they get no jobs, and nobody counts on them."""

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.queue import fair_share, transitions
from jobs.queue.tenants import set_tenant
from jobs.queue.worker_drains import Holding, Target, drain, drains, holding, inherit_drain, undrain
from jobs.queue.worker_health_reports import report_health, unhealthy_workers, waiting
from jobs.queue.worker_pools import pools, set_pool, wanted_workers
from jobs.queue.worker_registry import WorkerReport, forget_worker, report_worker, workers
from jobs.states import DrainKind, WorkerActivity
from tests.factories import change, expire, held, lanes_of, look, make_batch, make_lane, states, take

HOST: Target = (DrainKind.HOST, "gpu")
WORKER: Target = (DrainKind.WORKER, "gpu:1")
BY = "anna@desk"


def start(
    engine: Engine, *names: str, activity: WorkerActivity = WorkerActivity.IDLE, pool: str = "default"
) -> None:
    for name in names:
        report_worker(engine, WorkerReport(name, "cpu", pool, activity))


def shown(engine: Engine) -> dict[str, str]:
    """The state of each worker, as it is listed."""
    return {worker.name: worker.shown_state for worker in workers(engine)}


@pytest.mark.parametrize(
    ("target", "kept_out"), [(HOST, {"gpu:1", "gpu:2"}), (WORKER, {"gpu:1"}), ((DrainKind.HOST, "gp"), set())]
)
def test_who_is_drained_gets_no_jobs(engine: Engine, target: Target, kept_out: set[str]) -> None:
    lane = make_lane(engine, 40)
    drain(engine, [target], drained_by=BY)
    for name in ("gpu:1", "gpu:2", "gpu2:1", "gpu"):
        got = {
            transitions.open_lane(engine, lane, name) is not None,
            fair_share.pick_lane(engine, slice_s=60, worker=name) is not None,
            bool(take(engine, lane, 2, worker=name)),
            report_worker(engine, WorkerReport(name, "cpu", "default")) is False,
        }
        assert got == {name not in kept_out}, name
    undrain(engine, [target])
    assert len(take(engine, lane, 2, worker="gpu:1")) == 2


def test_limits_of_running_jobs_don_t_let_a_drained_worker_in(engine: Engine) -> None:
    lane = make_lane(engine, 4)
    set_tenant(engine, "*", max_running=3)
    drain(engine, [HOST], drained_by=BY)
    assert take(engine, lane, worker="gpu:1") == []
    assert len(take(engine, lane, worker="other:1")) == 3


def test_a_drain_is_told_and_taken_back_once(engine: Engine) -> None:
    drain(engine, [WORKER, HOST], drained_by=BY, reason="new fans")
    drain(engine, [HOST], drained_by="bob@desk")
    host, worker = drains(engine)
    assert (host.key, host.drained_by, host.reason) == (HOST, BY, "new fans")
    assert [host.covers(name) for name in ("gpu:1", "gpu:2", "gpu2:1")] == [True, True, False]
    assert [worker.covers(name) for name in ("gpu:1", "gpu:2")] == [True, False]
    assert undrain(engine, [HOST, WORKER]) == 2
    assert undrain(engine, [HOST]) == 0


def test_a_worker_drains_until_it_holds_nothing(engine: Engine) -> None:
    start(engine, "gpu:1", "gpu:3")
    start(engine, "gpu:2", "other:1", activity=WorkerActivity.BUSY)
    drain(engine, [HOST], drained_by=BY)
    assert shown(engine) == {
        "gpu:1": "drained",
        "gpu:2": "draining",
        "gpu:3": "drained",
        "other:1": "busy",
    }
    jobs = take(engine, make_lane(engine, 3), worker="gpu2:1")
    change(engine, "UPDATE jobs SET worker = 'gpu:1'")
    assert holding(engine, [HOST]) == [Holding("gpu:1", 3), Holding("gpu:2", 0)]
    assert holding(engine, [WORKER]) == [Holding("gpu:1", 3)]
    transitions.release(engine, held(*jobs[:2]))
    assert holding(engine, [WORKER]) == [Holding("gpu:1", 1)]
    expire(engine, jobs[2])
    start(engine, "gpu:2")
    assert holding(engine, [HOST]) == [], "nobody renews the lease, so nobody holds the job"
    change(engine, "UPDATE workers SET seen_at = now() - interval '2 minutes' WHERE name = 'gpu:3'")
    assert shown(engine)["gpu:3"] == "lost"


def test_the_time_of_a_drained_worker_begins_when_it_had_finished(engine: Engine) -> None:
    start(engine, "gpu:1")
    change(engine, "UPDATE workers SET activity_since = now() - interval '1 hour'")
    drain(engine, [HOST], drained_by=BY)
    (found,) = workers(engine)
    assert found.shown_since == found.drained_since == drains(engine)[0].since
    start(engine, "gpu:1", activity=WorkerActivity.BUSY)
    start(engine, "gpu:1")
    (found,) = workers(engine)
    assert found.shown_since == found.activity_since
    assert found.report()["state"] == "drained"


def test_a_worker_of_a_version_that_knows_no_drains_counts_on(engine: Engine) -> None:
    start(engine, "gpu:1")
    change(engine, "UPDATE workers SET version = NULL")
    drain(engine, [HOST], drained_by=BY)
    make_batch(engine, 1)
    assert shown(engine) == {"gpu:1": "idle"}
    assert waiting(engine).batches == {}


def test_nobody_counts_on_drained_workers(engine: Engine) -> None:
    batch = make_batch(engine, 400)
    change(engine, "UPDATE lanes SET image_s = 10")
    set_pool(engine, "default", target_s=4000, idle_s=300)
    start(engine, "gpu:1", "other:1")
    assert wanted_workers(engine, "default") == 2
    one = actions.status(engine, batch.name).eta_s
    drain(engine, [HOST], drained_by=BY)
    assert actions.status(engine, batch.name).eta_s == pytest.approx(2 * (one or 0), rel=0.01)
    assert wanted_workers(engine, "default") == 2, "one for the work, one in place of the drained one"
    (pool,) = pools(engine)
    assert (pool.workers, pool.drained) == (2, 1)
    drain(engine, [(DrainKind.HOST, "other")], drained_by=BY)
    assert actions.status(engine, batch.name).eta_s is None
    change(engine, "UPDATE batches SET paused_at = now()")
    assert wanted_workers(engine, "default") == 0, "there is nothing to do: nobody need be replaced"


def test_a_batch_waits_for_drained_workers_and_says_so(engine: Engine) -> None:
    batch = make_batch(engine, 1)
    start(engine, "gpu:1", "other:1")
    drain(engine, [HOST], drained_by=BY)
    assert waiting(engine).reason(batch.id) is None
    drain(engine, [(DrainKind.WORKER, "other:1")], drained_by=BY)
    why = "the workers of gpu and other:1 are drained; `nightmill workers undrain gpu other:1`"
    assert actions.status(engine, batch.name).waiting == why
    undrain(engine, [HOST])
    report_health(engine, "gpu:1", "cpu", "no disk")
    assert waiting(engine).reason(batch.id) == "no disk"
    drain(engine, [HOST], drained_by=BY)
    assert (unhealthy_workers(engine), waiting(engine).reason(batch.id)) == ([], why)


def test_a_batch_waits_where_those_of_its_pool_are_drained(engine: Engine) -> None:
    batch = make_batch(engine, 1)
    set_pool(engine, "sketch", models=["sketcher"])
    set_pool(engine, "default", models=["painter"])
    start(engine, "gpu:1", pool="sketch")
    start(engine, "other:1")
    assert waiting(engine).batches == {}
    drain(engine, [WORKER], drained_by=BY)
    assert waiting(engine).batches == {batch.id: "gpu:1 is drained; `nightmill workers undrain gpu:1`"}
    undrain(engine, [WORKER])
    drain(engine, [(DrainKind.HOST, "other")], drained_by=BY)
    assert waiting(engine).batches == {}


def test_who_takes_the_place_of_a_drained_worker_is_drained(engine: Engine) -> None:
    """The process of `gpu:1` ended in order, that of `gpu:2` was killed, the others live."""
    start(engine, "gpu:1", "gpu:2", "gpu:3", "gpu:11", "gpu:12", "gpu:13")
    drain(engine, [(DrainKind.WORKER, f"gpu:{n}") for n in (1, 2, 3)], drained_by=BY, reason="new fans")
    forget_worker(engine, "gpu:1")

    def inherits(worker: str, device: str = "cpu") -> bool:
        return inherit_drain(engine, worker, device, lambda other: other != "gpu:2")

    assert not inherits("other:9")
    assert not inherits("gpu:8", "cuda:1")
    assert (inherits("gpu:11"), inherits("gpu:12"), inherits("gpu:13")) == (True, True, False)
    assert not inherits("gpu:11"), "it has a drain"
    assert [(one.target, one.drained_by, one.reason) for one in drains(engine)] == [
        (name, BY, "new fans") for name in ("gpu:11", "gpu:12", "gpu:3")
    ]
    change(engine, "UPDATE workers SET seen_at = now() - interval '2 minutes' WHERE name = 'gpu:3'")
    assert inherits("gpu:13"), "another process has the id of the one of `gpu:3`, which is long gone"


def test_what_a_drained_worker_holds_goes_back_uncharged(engine: Engine) -> None:
    """By the statement that a worker releases with; it finds its leases whether or not it is drained."""
    (lane,) = lanes_of(engine, make_batch(engine, 2))
    jobs = take(engine, lane, worker="gpu:1")
    drain(engine, [HOST], drained_by=BY)
    assert transitions.extend(engine, held(*jobs), 60) == {job.id for job in jobs}
    transitions.release(engine, held(*jobs))
    assert states(engine) == {"queued": 2}
    assert {row["attempt"] for row in look(engine, "SELECT attempt FROM jobs")} == {0}
