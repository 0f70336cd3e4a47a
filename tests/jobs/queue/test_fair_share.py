"""Which lane comes next: tenants by weight, priorities within a tenant, warm models within a bound."""

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.errors import UsageError
from jobs.job_dataclasses import LaneId
from jobs.queue import fair_share, transitions
from jobs.queue import lane_counts_and_low_watermarks as lane_counts
from jobs.queue.fair_share import SliceUse, TimeSlice, end_time_slice, pick_lane
from jobs.queue.tenants import forget_tenant, set_tenant
from tests.factories import change, lanes_of, look, make_batch, make_lane, take

SLICE_S = 60.0


def picked(engine: Engine, **options: Any) -> TimeSlice:
    """A time slice, which must be there."""
    found = pick_lane(engine, **{"slice_s": SLICE_S} | options)
    assert found is not None
    return found


def tenant_lane(engine: Engine, tenant: str, **options: Any) -> LaneId:
    rows = [{"prompt": f"fox {i}", "tenant": tenant} for i in range(3)]
    (lane,) = lanes_of(engine, make_batch(engine, rows, **options))
    return lane


def weigh(engine: Engine, **weights: int) -> None:
    for name, weight in weights.items():
        change(
            engine,
            "INSERT INTO tenants (name, weight) VALUES (:name, :weight) "
            "ON CONFLICT (name) DO UPDATE SET weight = excluded.weight",
            name=name,
            weight=weight,
        )


def served(engine: Engine, count: int, **options: Any) -> list[str]:
    """The tenants of `count` time slices, each used in full."""
    return [picked(engine, **options).tenant for _ in range(count)]


def longest_wait(names: list[str], name: str) -> int:
    """The longest run of time slices of others."""
    waits, wait = [0], 0
    for other in names:
        wait = 0 if other == name else wait + 1
        waits.append(wait)
    return max(waits)


def test_nothing_to_do(engine: Engine) -> None:
    assert pick_lane(engine, slice_s=SLICE_S) is None
    lane = make_lane(engine, 1)
    take(engine, lane)
    assert pick_lane(engine, slice_s=SLICE_S) is None


def test_lanes_of_equal_standing_alternate_and_the_preferred_one_is_first(engine: Engine) -> None:
    first, second, third = (make_lane(engine, 2) for _ in range(3))
    assert [picked(engine).lane for _ in range(4)] == [first, second, third, first]
    assert picked(engine, preferred=third).lane == third
    assert picked(engine, preferred=LaneId(4711)).lane == second


def test_the_higher_priority_comes_first_and_may_be_changed(engine: Engine) -> None:
    low, high = make_lane(engine, 2, priority=-1), make_lane(engine, 2, priority=5)
    assert [picked(engine).lane for _ in range(3)] == [high] * 3
    change(
        engine,
        "UPDATE batches SET priority = 6 WHERE id = (SELECT batch_id FROM lanes WHERE id = :id)",
        id=low,
    )
    assert picked(engine).lane == low


def test_tenants_share_by_weight(engine: Engine) -> None:
    for name in ("ada", "bob", "cy"):
        tenant_lane(engine, name)
    weigh(engine, ada=3, bob=2)
    names = served(engine, 60)
    assert Counter(names) == {"ada": 30, "bob": 20, "cy": 10}
    assert longest_wait(names, "cy") <= 3 + 2 + 2
    assert longest_wait(names, "ada") <= 2


@pytest.mark.parametrize("weights", [[1, 9], [5, 3, 2, 1], [7, 7, 1]])
def test_nobody_waits_longer_than_the_weights_allow(engine: Engine, weights: list[int]) -> None:
    """The bound of stride scheduling: between two time slices of one, another has at most its share of them and one."""
    tenants = {f"t{index}": weight for index, weight in enumerate(weights)}
    for name in tenants:
        tenant_lane(engine, name)
    weigh(engine, **tenants)
    names = served(engine, 4 * sum(weights))
    assert Counter(names) == {name: 4 * weight for name, weight in tenants.items()}
    for name, weight in tenants.items():
        bound = sum(other / weight + 1 for another, other in tenants.items() if another != name)
        assert longest_wait(names, name) <= bound


def test_a_tenant_with_high_priorities_does_not_starve_the_others(engine: Engine) -> None:
    tenant_lane(engine, "pushy", priority=1000)
    tenant_lane(engine, "meek", priority=-1000)
    assert Counter(served(engine, 10)) == {"pushy": 5, "meek": 5}


def test_who_was_away_starts_level(engine: Engine) -> None:
    tenant_lane(engine, "here")
    served(engine, 50)
    tenant_lane(engine, "newcomer")
    names = served(engine, 10)
    assert Counter(names) == {"here": 5, "newcomer": 5}


def test_a_time_slice_that_ends_early_is_paid_back(engine: Engine) -> None:
    for name in ("quick", "slow"):
        tenant_lane(engine, name)
    seconds = Counter[str]()
    for _ in range(60):
        taken = picked(engine)
        used = 6.0 if taken.tenant == "quick" else SLICE_S
        seconds[taken.tenant] += round(used)
        end_time_slice(engine, taken, "w1", "cpu", SliceUse(used, images=0, batch_s=0))
    assert abs(seconds["quick"] - seconds["slow"]) <= SLICE_S


def test_a_new_batch_of_a_loaded_model_gets_a_slice_at_once(engine: Engine) -> None:
    """A preview of eight images doesn't wait for minutes behind a night's batch; then they take turns as before."""
    old = make_lane(engine)
    assert picked(engine, preferred=old, warm=["sketcher"], model_affinity_s=300).lane == old
    new = make_lane(engine)
    order = [picked(engine, preferred=old, warm=["sketcher"], model_affinity_s=300).lane for _ in range(3)]
    assert order == [new, old, old]
    assert picked(engine, preferred=new, warm=[], model_affinity_s=300).lane == new


def test_a_warm_model_is_preferred_within_the_bound(engine: Engine) -> None:
    """Two tenants of other models: a worker keeps what it has loaded for `model_affinity_s`, and the shares hold."""
    rows = [
        {"prompt": "fox", "tenant": "ada", "model": "sketcher"},
        {"prompt": "fox", "tenant": "bob", "model": "painter"},
    ]
    sketching, painting = lanes_of(engine, make_batch(engine, rows))
    models = {sketching: "sketcher", painting: "painter"}
    weigh(engine, ada=2)
    warm, names, loads = "sketcher", [], 0
    for _ in range(300):
        taken = picked(engine, warm=[warm], model_affinity_s=240)
        loads += models[taken.lane] != warm
        warm = models[taken.lane]
        names.append(taken.tenant)
    assert loads <= 40, "it hardly ever loads another model"
    assert 195 <= Counter(names)["ada"] <= 205
    assert longest_wait(names, "bob") <= 2 * (2 * 240 / SLICE_S + 2)


def test_a_cold_lane_of_the_same_tenant_waits_no_longer_than_the_bound(engine: Engine) -> None:
    rows = [{"prompt": "fox", "model": "sketcher"}, {"prompt": "fox", "model": "painter"}]
    warm, cold = lanes_of(engine, make_batch(engine, rows))
    assert {picked(engine, warm=["sketcher"], model_affinity_s=240).lane for _ in range(5)} == {warm}
    change(engine, "UPDATE lanes SET chosen_at = now() - interval '241 seconds' WHERE id = :id", id=cold)
    assert picked(engine, warm=["sketcher"], model_affinity_s=240).lane == cold


def test_a_tenant_at_its_limit_is_passed_over(engine: Engine) -> None:
    limited, free = tenant_lane(engine, "ada"), tenant_lane(engine, "bob")
    weigh(engine, ada=100)
    change(engine, "UPDATE tenants SET max_running = 2 WHERE name = 'ada'")
    assert len(take(engine, limited, 50)) == 2
    assert take(engine, limited, 50) == []
    assert {picked(engine).lane for _ in range(4)} == {free}
    assert len(take(engine, free, 50)) == 3


def test_the_common_limit_counts_all_tenants(engine: Engine) -> None:
    first, second = tenant_lane(engine, "ada"), tenant_lane(engine, "bob")
    set_tenant(engine, "*", max_running=4)
    assert len(take(engine, first, 50)) == 3
    taken = take(engine, second, 50)
    assert len(taken) == 1
    transitions.release(engine, [(taken[0].id, taken[0].lease)])
    assert len(take(engine, second, 50)) == 1
    set_tenant(engine, "*", max_running=0)
    assert take(engine, second, 50) == []


def test_closed_batches_get_no_time_slice(engine: Engine) -> None:
    lane = make_lane(engine, 2)
    (row,) = look(engine, "SELECT batch_id FROM lanes WHERE id = :id", id=lane)
    for closed, opened in (
        ("not_before = now() + interval '1 hour'", "not_before = NULL"),
        (
            "\"window\" = 'w', opens_at = now() + interval '1 h', closes_at = now() + interval '9 h'",
            "opens_at = now(), closes_at = now() + interval '9 h'",
        ),
        ("closes_at = now() + interval '100 s'", "closes_at = now() + interval '130 s'"),
    ):
        change(engine, f"UPDATE batches SET {closed}")  # noqa: S608
        assert pick_lane(engine, slice_s=SLICE_S) is None
        assert fair_share.waiting_lanes(engine, 5) == []
        assert transitions.open_lane(engine, lane) is None
        assert take(engine, lane) == []
        change(engine, f"UPDATE batches SET {opened}")  # noqa: S608
        assert picked(engine).lane == lane
    actions.pause(engine, row["batch_id"])
    assert pick_lane(engine, slice_s=SLICE_S) is None


def test_a_lane_closes_when_what_it_takes_to_deliver_would_not_fit(engine: Engine) -> None:
    """Nothing starts that would not finish: by what workers have measured, once they have."""
    lane = make_lane(engine, 2)
    first, second = picked(engine), picked(engine)
    change(
        engine, "UPDATE batches SET \"window\" = 'w', opens_at = now(), closes_at = now() + interval '60 s'"
    )
    assert transitions.open_lane(engine, lane) is None, "not measured: it might take two minutes"
    end_time_slice(engine, first, "w1", "cpu", SliceUse(60, images=10, batch_s=20))
    assert transitions.open_lane(engine, lane) is not None
    end_time_slice(engine, second, "w1", "cpu", SliceUse(60, images=10, batch_s=70))
    assert transitions.open_lane(engine, lane) is None


@pytest.mark.parametrize("rounds", [3])
def test_floors_rise_with_what_was_claimed_and_hide_nothing(engine: Engine, rounds: int) -> None:
    lane = make_lane(engine, 10)
    seen = set()
    for _ in range(rounds):
        jobs = take(engine, lane, 3)
        seen |= {job.id for job in jobs}
        lane_counts.raise_low_watermarks(engine)
        (row,) = look(engine, "SELECT low_watermark FROM lanes")
        assert row["low_watermark"] == max(seen)
        transitions.release(engine, [(job.id, job.lease) for job in jobs[1:]])
        back = take(engine, lane, 2)
        assert [job.id for job in back] == [job.id for job in jobs[1:]], "what came back goes first"
    assert [job.id for job in take(engine, lane)] == [10]
    assert lane_counts.raise_low_watermarks(engine) == 1
    assert lane_counts.raise_low_watermarks(engine) == 0, "nothing waits there for its first claim any more"


def test_no_tenant_can_be_called_as_all_of_them_are(engine: Engine) -> None:
    batch = make_batch(
        engine, [{"prompt": "fox", "tenant": "*"}, {"prompt": "fox", "tenant": " * "}, {"prompt": "a"}]
    )
    assert (batch.rejected, batch.jobs) == (2, 1)
    reasons = look(engine, 'SELECT "column", reason FROM rejects')
    assert {row["column"] for row in reasons} == {"tenant"}
    assert "stands for all of them" in reasons[0]["reason"]
    with pytest.raises(UsageError, match=r"--set tenant=\*: a tenant can't be called \*"):
        make_batch(engine, 1, columns={"tenant": "*"})


def test_lifting_the_common_limit_starves_nobody(engine: Engine) -> None:
    tenant_lane(engine, "ada")
    served(engine, 50)
    set_tenant(engine, "*", max_running=1000)
    forget_tenant(engine, "*")
    tenant_lane(engine, "bob")
    assert Counter(served(engine, 10)) == {"ada": 5, "bob": 5}
    with pytest.raises(UsageError, match="nothing is set for tenant"):
        forget_tenant(engine, "*")


def used(engine: Engine) -> dict[str, float]:
    return {row["name"]: row["used_s"] for row in look(engine, "SELECT name, used_s FROM tenants")}


def test_a_time_slice_whose_answer_was_lost_is_given_once(engine: Engine) -> None:
    for name in ("ada", "bob"):
        tenant_lane(engine, name)
    first = picked(engine, time_slice=(asked := uuid4()))
    assert picked(engine, time_slice=asked) == first
    assert used(engine) == {first.tenant: SLICE_S}
    assert picked(engine).tenant != first.tenant


def test_a_time_slice_whose_end_was_not_answered_is_settled_once(engine: Engine) -> None:
    lane = tenant_lane(engine, "ada")
    taken = picked(engine)
    for _ in range(2):
        end_time_slice(engine, taken, "w1", "cpu", SliceUse(10, images=5, batch_s=2))
    assert used(engine) == {"ada": 10.0}
    assert look(engine, "SELECT image_s FROM lanes WHERE id = :id", id=lane) == [{"image_s": 2.0}]
    second = picked(engine)
    for _ in range(2):
        end_time_slice(engine, second, "w1", "cpu", SliceUse(SLICE_S, images=10, batch_s=2))
    assert look(engine, "SELECT image_s FROM lanes WHERE id = :id", id=lane) == [{"image_s": 4.0}]


def test_a_weight_that_changes_during_a_time_slice_gives_no_time_away(engine: Engine) -> None:
    tenant_lane(engine, "ada")
    set_tenant(engine, "ada", weight=100)
    taken = picked(engine)
    set_tenant(engine, "ada", weight=1)
    end_time_slice(engine, taken, "w1", "cpu", SliceUse(0, images=0, batch_s=0))
    assert used(engine) == {"ada": 0.0}


def test_time_slices_of_dead_workers_are_forgotten_and_stay_charged(engine: Engine) -> None:
    tenant_lane(engine, "ada")
    old, new = picked(engine), picked(engine)
    assert fair_share.forget_time_slices(engine) == 0
    change(engine, "UPDATE time_slices SET begun_at = now() - interval '2 days' WHERE id = :id", id=old.id)
    assert fair_share.forget_time_slices(engine) == 1
    for taken in (old, new):
        end_time_slice(engine, taken, "w1", "cpu", SliceUse(0, images=0, batch_s=0))
    assert used(engine) == {"ada": SLICE_S}
