"""A batch is brought to a later version of its manifest: what changed is rendered again, and nothing else."""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import accepted_image_quotas, actions
from jobs.batches.evaluate_accept_condition import judge_all
from jobs.batches.manifest_reconciliation import outcomes, sums
from jobs.errors import LeaseLostError, UsageError
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from jobs.queue.lane_counts_and_low_watermarks import end_lanes, raise_low_watermarks
from jobs.queue.update_jobs_from_manifest import Difference
from jobs.states import ErrorKind, JobState
from scheduler.ingest.ingest import Ingested
from scheduler.ingest.update_batch_from_manifest import apply_onto, find_base
from tests.factories import (
    MODEL,
    change,
    failure,
    image,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    order_for,
    states,
    submit,
    take,
)
from tests.jobs.feed.test_feed import settled
from tests.jobs.manifest.helpers import rules

Rows = Sequence[dict[str, Any]]
FOXES = [{"id": f"fox-{n}", "prompt": f"fox {n}", "label": n % 2} for n in range(6)]
JOBS = 'SELECT * FROM jobs WHERE batch_id = :id ORDER BY ordinal, "index"'
SAME = ("prompt", "seed", "steps", "guidance_scale", "sampler", "tenant", "meta", "model", "width", "height")


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def onto(engine: Engine, batch: Ingested, path: Path, rows: Rows, **options: bool) -> Difference:
    base = find_base(engine, batch.name)
    with order_for(write(path, rows), columns=base.settings["columns"], output=base.output) as order:
        given = replace(order, policy=base.policy)
        return apply_onto(
            engine, base, given, rules(base.settings["columns"], model=MODEL), **options
        ).difference


def first(engine: Engine, path: Path, rows: Rows, **options: Any) -> Ingested:
    with order_for(write(path, rows), **options) as order:
        return submit(engine, order)


def claimed(engine: Engine, batch: Ingested) -> list[Job]:
    return [job for lane in lanes_of(engine, batch) for job in take(engine, lane, 1000)]


def render(engine: Engine, batch: Ingested) -> list[str]:
    """Complete all jobs that can be claimed; returns their prompts."""
    jobs = claimed(engine, batch)
    transitions.complete(engine, [image(job) for job in jobs])
    return sorted(job.prompt for job in jobs)


def jobs_of(engine: Engine, batch: Ingested) -> list[dict[str, Any]]:
    return look(engine, JOBS, id=batch.id)


def contents(engine: Engine, batch: Ingested) -> dict[tuple[str, int], tuple[Any, ...]]:
    statement = """
        SELECT jobs.*, model, width, height FROM jobs JOIN lanes ON lanes.id = lane_id WHERE jobs.batch_id = :id"""
    found = look(engine, statement, id=batch.id)
    return {(row["row_id"], row["index"]): tuple(str(row[name]) for name in SAME) for row in found}


def images_of(engine: Engine, batch: Ingested) -> list[dict[str, Any]]:
    return look(engine, "SELECT * FROM images WHERE batch_id = :id ORDER BY ordinal", id=batch.id)


@pytest.mark.parametrize("source", ["id", "row"])
def test_only_what_differs_is_rendered(engine: Engine, tmp_path: Path, source: str) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES, seed_from=source)
    render(engine, batch)
    raise_low_watermarks(engine)
    end_lanes(engine)
    before = images_of(engine, batch)
    later = [
        {"id": "owl", "prompt": "an owl", "num_images": 2},
        FOXES[5],
        FOXES[0] | {"label": 7},
        FOXES[1] | {"prompt": "a red fox"},
        *FOXES[3:5],
    ]
    assert onto(engine, batch, path, later) == Difference(
        new=1, changed=1, told=1, dropped=1, unchanged=3, queued=3, retracted=2
    )
    assert states(engine) == {"done": 4, "queued": 3}
    assert lane_differences(engine) == []
    after = images_of(engine, batch)
    assert [row["row_id"] for row in after] == ["fox-0", "fox-3", "fox-4", "fox-5"]
    assert after[1:] == before[3:], "other image rows are as they were"
    assert (after[0]["meta"], after[0]["key"], after[0]["job_id"]) == (
        {"label": 7},
        before[0]["key"],
        before[0]["job_id"],
    )
    assert [(job["row_id"], job["ordinal"]) for job in jobs_of(engine, batch)] == [
        *(("fox-0", 0), ("fox-1", 1), ("fox-3", 3), ("fox-4", 4), ("fox-5", 5)),
        *(("owl", 6), ("owl", 6)),
    ]
    assert render(engine, batch) == ["a red fox", "an owl", "an owl"]
    (row,) = look(engine, "SELECT name, rows, rejected, jobs FROM batches")
    assert tuple(row.values()) == ("foxes", 6, 0, 7)
    assert len({job["seed"] for job in jobs_of(engine, batch)}) == 7


def test_readers_of_the_feed_learn_of_it(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES)
    render(engine, batch)
    seen = settled(engine, 6)
    onto(engine, batch, path, [FOXES[0] | {"label": 9}, FOXES[1] | {"steps": 2}, *FOXES[3:]])
    later = settled(engine, 1, seen[-1]["cursor"])
    assert [(row["row_id"], row["meta"], row["sha256"]) for row in later] == [
        ("fox-0", {"label": 9}, seen[0]["sha256"])
    ]
    assert later[0]["image_id"] not in {row["image_id"] for row in seen}
    events = look(
        engine, "SELECT row_id, image_id, detail FROM events WHERE kind = 'retracted' ORDER BY row_id"
    )
    assert [(row["row_id"], row["image_id"]) for row in events] == [
        (row["row_id"], row["image_id"]) for row in seen[:3]
    ]
    assert {row["detail"]["reason"] for row in events} == {
        "its row of the manifest has changed",
        "its row is no longer in the manifest",
    }


def test_the_same_again_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, [*FOXES, {"id": "bad", "prompt": ""}])
    later = [FOXES[3] | {"width": 72}, {"id": "bad", "prompt": ""}, *FOXES[:2]]
    assert not onto(engine, batch, path, later).is_empty
    tables = ("jobs", "images", "rejects", "batches", "lanes", "job_counts", "events")
    before = {table: look(engine, f"SELECT * FROM {table} ORDER BY 1") for table in tables}  # noqa: S608
    assert onto(engine, batch, path, later) == Difference(0, 0, 0, 0, 3, 0, 0)
    assert {table: look(engine, f"SELECT * FROM {table} ORDER BY 1") for table in tables} == before  # noqa: S608
    onto(engine, batch, path, [*later[::-1], {"prompt": ""}])
    assert [row["line"] for row in look(engine, "SELECT line FROM rejects ORDER BY line")] == [3, 5]
    assert look(engine, "SELECT rows, rejected, jobs FROM batches") == [{"rows": 5, "rejected": 2, "jobs": 3}]


def test_a_submit_of_the_later_manifest_finds_the_batch(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES)
    onto(engine, batch, path, FOXES[:3])
    for name in (None, "foxes"):
        assert first(engine, path, FOXES[:3], name=name).id == batch.id
    onto(engine, batch, tmp_path / "grown.jsonl", FOXES[:4])
    assert first(engine, tmp_path / "grown.jsonl", FOXES[:4], name="foxes").id == batch.id
    other = first(engine, tmp_path / "grown.jsonl", FOXES[:5])
    assert other.is_new
    onto(engine, batch, tmp_path / "foxes.jsonl", FOXES[:5])
    assert first(engine, path, FOXES[:5], name="foxes").id == batch.id, (
        "another batch has the digest without it"
    )


def test_any_change_ends_where_a_fresh_batch_begins(engine: Engine, tmp_path: Path) -> None:
    chance = random.Random(7)
    path = tmp_path / "m.jsonl"

    def some_rows() -> Rows:
        rows = [
            {"id": f"row-{n}", "prompt": f"fox {chance.randrange(2)}", "steps": chance.randint(1, 2)}
            | {
                "num_images": chance.randint(1, 3),
                "width": chance.choice([64, 72]),
                "label": chance.randrange(2),
            }
            | ({"seed": chance.randrange(3)} if chance.random() < 0.3 else {})
            | ({"tenant": "ada"} if chance.random() < 0.3 else {})
            for n in range(8)
            if chance.random() < 0.7
        ]
        chance.shuffle(rows)
        return rows or [{"id": "row-0", "prompt": "a"}]

    batch = first(engine, path, some_rows(), name="grown", batch_seed=3)
    for number in range(12):
        jobs = claimed(engine, batch)
        transitions.complete(engine, [image(job) for job in jobs[::2]])
        transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in jobs[1::4]])
        rows = some_rows()
        onto(engine, batch, path, rows)
        fresh = first(engine, path, rows, name=f"fresh-{number}", batch_seed=3)
        assert contents(engine, batch) == contents(engine, fresh)
        assert lane_differences(engine) == []
        drawn = look(engine, "SELECT FROM images i JOIN jobs j ON j.id = job_id WHERE i.prompt <> j.prompt")
        assert drawn == []
        wrong = "SELECT FROM jobs LEFT JOIN images ON job_id = jobs.id WHERE (state = 'done') <> (job_id IS NOT NULL)"
        assert look(engine, wrong) == []
        actions.cancel(engine, fresh.id)
    counted = look(engine, "SELECT jobs FROM batches WHERE name = 'grown'")[0]["jobs"]
    assert counted == len(jobs_of(engine, batch))


def test_every_row_is_accounted_for(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, [*FOXES, {"id": "bad", "prompt": ""}])
    render(engine, batch)
    later = [
        {"id": "owl", "prompt": "an owl"},
        {"prompt": ""},
        FOXES[0] | {"label": 3},
        FOXES[1] | {"steps": 2},
    ]
    for keeps_dropped in (True, False):
        onto(engine, batch, path, later, keeps_dropped=keeps_dropped)
        found = sums(engine, batch.id)
        assert (found.problems, found.rows, found.rejected) == ([], 8 if keeps_dropped else 4, 1)
    assert found.lines is not None
    told = {
        row.ordinal: (row.row_id, row.outcome) for row in outcomes(engine, actions.status(engine, "foxes"))
    }
    assert {name for name, _ in told.values()} == {"fox-0", "fox-1", "owl", None}


def test_images_whose_columns_change_are_judged_anew(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES, accept="meta.label < 1", target=3)
    render(engine, batch)
    assert judge_all(engine, batch.id) == 6
    assert accepted_image_quotas.shortfall(engine, batch.id) == (0, 0)
    assert onto(engine, batch, path, [FOXES[0] | {"label": 1}, *FOXES[1:]]).told == 1
    assert judge_all(engine, batch.id) == 1
    assert accepted_image_quotas.shortfall(engine, batch.id) == (1, 1)


def test_dropped_rows_can_be_kept(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES)
    render(engine, batch)
    found = onto(engine, batch, path, [FOXES[0]], keeps_dropped=True)
    assert (found.dropped, found.unchanged, found.retracted) == (0, 6, 0)
    assert len(images_of(engine, batch)) == 6
    assert look(engine, "SELECT rows FROM batches") == [{"rows": 6}]
    assert onto(engine, batch, path, [FOXES[0]]).dropped == 5
    assert len(images_of(engine, batch)) == 1


def test_a_worker_loses_what_it_renders_of_changed_rows(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES[:3])
    changed, dropped, same = claimed(engine, batch)
    onto(engine, batch, path, [FOXES[0] | {"prompt": "a red fox"}, FOXES[2]])
    with pytest.raises(LeaseLostError) as lost:
        transitions.complete(engine, [image(job) for job in (changed, dropped, same)])
    assert lost.value.lost == {changed.id, dropped.id}
    assert render(engine, batch) == ["a red fox"]
    assert lane_differences(engine) == []


def test_workers_go_on_while_the_manifest_is_read(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES)
    seen: list[str] = []

    def work(_: int) -> None:
        change(engine, "SET LOCAL lock_timeout = '2s'; UPDATE lanes SET chosen_at = now()")
        seen.extend(render(engine, batch))
        assert actions.retry(engine, batch.id) == 0

    base = find_base(engine, batch.name)
    with order_for(write(path, [FOXES[0] | {"steps": 2}, *FOXES[1:]]), output=base.output) as order:
        given = replace(order, policy=base.policy)
        applied = apply_onto(engine, base, given, rules(model=MODEL), work)
    assert (len(seen), applied.difference.changed, applied.difference.retracted) == (6, 1, 1)
    assert states(engine) == {"done": 5, "queued": 1}
    assert lane_differences(engine) == []


def test_two_manifests_at_once_are_applied_one_after_the_other(engine: Engine, tmp_path: Path) -> None:
    batch = first(engine, tmp_path / "foxes.jsonl", FOXES)
    versions = [[*FOXES, {"id": f"owl-{n}", "prompt": f"owl {n}", "width": 72}] for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        done = [
            threads.submit(onto, engine, batch, tmp_path / f"{n}.jsonl", rows)
            for n, rows in enumerate(versions)
        ]
        assert [one.result().new for one in done] == [1] * 4
    assert [job["row_id"][:3] for job in jobs_of(engine, batch)] == ["fox"] * 6 + ["owl"]
    assert lane_differences(engine) == []


def test_nothing_is_changed_by_a_dry_run(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES)
    tables = "jobs", "batches", "lanes", "job_counts"
    before = [look(engine, f"SELECT * FROM {table} ORDER BY id") for table in tables]  # noqa: S608
    found = onto(engine, batch, path, [FOXES[0] | {"width": 72}], is_dry=True)
    assert (found.changed, found.dropped) == (1, 5)
    assert [look(engine, f"SELECT * FROM {table} ORDER BY id") for table in tables] == before  # noqa: S608
    assert onto(engine, batch, path, [FOXES[0] | {"width": 72}]) == found


def test_other_seeds_of_retries_are_no_change(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES)
    for _ in range(2):
        transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in claimed(engine, batch)])
        actions.retry(engine, batch.id, [JobState.BLOCKED])
    assert onto(engine, batch, path, FOXES).is_empty
    assert onto(engine, batch, path, [row | {"seed": 4} for row in FOXES]).changed == 6


def test_a_batch_with_a_target_reaches_it_with_later_rows(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    batch = first(engine, path, FOXES[:2], target=4, target_per="label")
    jobs = claimed(engine, batch)
    transitions.block(engine, [failure(jobs[0], ErrorKind.SAFETY)])
    transitions.complete(engine, [image(job) for job in jobs[1:]])
    assert accepted_image_quotas.make_up(engine) == 1
    render(engine, batch)
    assert onto(engine, batch, path, FOXES[:2]).is_empty
    raise_low_watermarks(engine)
    owl = {"id": "owl", "prompt": "o", "label": 2}
    found = onto(engine, batch, path, [FOXES[0], FOXES[1] | {"prompt": "a red fox"}, owl])
    assert (found.new, found.changed, found.unchanged) == (1, 1, 1)
    assert render(engine, batch) == ["a red fox"] * 4 + ["o"] * 4
    assert accepted_image_quotas.shortfall(engine, batch.id) == (0, 0)
    assert lane_differences(engine) == []


@pytest.mark.parametrize(
    ("there", "later", "said"),
    [
        (FOXES, [*FOXES, {"prompt": "a"}], r"line 7: has no id; --onto matches rows by their ids"),
        (FOXES, [*FOXES, FOXES[0]], r"line 7: repeats the id of an earlier row; --onto matches"),
        ([*FOXES, {"prompt": "a"}], FOXES, r"in that batch 1 rows have none, 0 repeat another's"),
        ([*FOXES, FOXES[0]], FOXES, r"in that batch 0 rows have none, 1 repeat another's"),
    ],
)
def test_rows_without_ids_of_their_own_are_refused(
    engine: Engine, tmp_path: Path, there: Rows, later: Rows, said: str
) -> None:
    batch = first(engine, tmp_path / "a.jsonl", there)
    before = jobs_of(engine, batch)
    with pytest.raises(UsageError, match=said):
        onto(engine, batch, tmp_path / "b.jsonl", later)
    assert jobs_of(engine, batch) == before


def test_batches_that_are_over_are_refused(engine: Engine) -> None:
    batch = make_batch(engine, FOXES, name="foxes")
    actions.cancel(engine, batch.id)
    with pytest.raises(UsageError, match="batch foxes was cancelled: `nightmill retry foxes` first"):
        find_base(engine, "foxes")
