"""What must be true of a batch after anything that may have happened to it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from jobs.job_dataclasses import BatchId
from jobs.states import FINISHED
from jobs.storage.open import MissingObjectError, ObjectStore, ObjectStoreError, S3Options, open_store
from scheduler.orphaned_objects import sweep_batch
from tests.end_to_end.processes import Truth, truth
from tests.factories import lane_differences, look

Place = tuple[int, int]

NEXT = {
    "queued": {"running", "cancelled"},
    "running": {"queued", "done", "failed", "blocked", "cancelled"},
    "done": set[str](),
    "failed": {"queued"},
    "blocked": {"queued"},
    "cancelled": {"queued"},
    "retracted": {"queued"},
}


@dataclass(frozen=True)
class Facts:
    """What was counted on the way; `swept` are objects that no row named."""

    jobs: int
    states: Mapping[str, int]
    attempts: int
    swept: int


def check(
    engine: Engine,
    name: str,
    *,
    places: Iterable[Place] | None = None,
    s3: S3Options = S3Options(),  # noqa: B008
    with_objects: bool = True,
) -> Facts:
    """Judge a batch whose workers have ended; AssertionError lists all that is wrong.

    `places` are the (ordinal, index) that its manifest asked for. Sweeps the batch's store of what no row names,
    whatever its age. `with_objects=False` is for experiments that store none.
    """
    found = truth(engine, name)
    (batch,) = look(engine, "SELECT id, output FROM batches WHERE name = :name", name=name)
    wrong = [
        *_unfinished(found),
        *_misplaced(found, places),
        *_wrong_rows(found),
        *_written_without_the_lease(engine, found),
        *(
            f"the job counts are wrong: {row}"
            for row in lane_differences(engine)
            if row["batch_id"] == batch["id"]
        ),
    ]
    swept = 0
    if with_objects:
        store = open_store(batch["output"], s3)
        wrong += _wrong_objects(store, found)
        swept = _sweep(engine, store, batch["id"]) if not wrong else 0
        wrong += _left_over(store, name, found) if not wrong else []
    assert not wrong, f"{len(wrong)} things are wrong:\n" + "\n".join(wrong[:20])
    counted = Counter(job["state"] for job in found.jobs)
    return Facts(len(found.jobs), counted, sum(job["attempt"] for job in found.jobs), swept)


def _unfinished(found: Truth) -> list[str]:
    return [f"job {job['id']} is {job['state']}" for job in found.jobs if job["state"] not in FINISHED]


def _misplaced(found: Truth, places: Iterable[Place] | None) -> list[str]:
    if places is None:
        return []
    there, wanted = Counter(_place(job) for job in found.jobs), Counter(places)
    missing, surplus = wanted - there, there - wanted
    return [f"no job for {place}" for place in missing] + [f"a job too many for {place}" for place in surplus]


def _wrong_rows(found: Truth) -> list[str]:
    """Done jobs have one image row each, of their own place and last attempt; no other job has one."""
    rows = Counter(row["job_id"] for row in found.images)
    done = {job["id"]: job for job in found.jobs if job["state"] == "done"}
    wrong = [f"job {job} is done and has {rows[job]} image rows" for job in done if rows[job] != 1]
    wrong += [f"job {job} isn't done and has {rows[job]} image rows" for job in rows if job not in done]
    for row in found.images:
        job = done.get(row["job_id"])
        if job and (_place(row), row["attempt"]) != (_place(job), job["attempt"]):
            wrong.append(
                f"job {job['id']} of {_place(job)}, attempt {job['attempt']}, has an image of {_place(row)}, "
                f"attempt {row['attempt']}"
            )
    return wrong


def _written_without_the_lease(engine: Engine, found: Truth) -> list[str]:
    """Where `tests.chaos.ledger` was kept: every end was signed by the lease that the job had at that moment."""
    if look(engine, "SELECT to_regclass('chaos_steps') AS ledger")[0]["ledger"] is None:
        return []
    ids = {"ids": [job["id"] for job in found.jobs]}
    steps = look(engine, "SELECT * FROM chaos_steps WHERE job_id = ANY (:ids) ORDER BY id", **ids)
    failed = look(engine, "SELECT job_id, attempt, error_text FROM attempts WHERE job_id = ANY (:ids)", **ids)
    signed = [(row["job_id"], row["attempt"], row["versions"].get("lease")) for row in found.images]
    signed += [(row["job_id"], row["attempt"], _signature(row["error_text"])) for row in failed]
    held = {(step["job_id"], step["attempt"], str(step["lease"])) for step in steps if step["lease"]}
    wrong = [
        f"attempt {attempt} of job {job} was ended by lease {lease}, which no longer had it"
        for job, attempt, lease in signed
        if lease and (job, attempt, lease) not in held
    ]
    return wrong + [
        f"job {step['job_id']} went from {step['was']} to {step['state']}"
        for step in steps
        if step["state"] not in NEXT[step["was"]]
    ]


def _signature(error_text: str | None) -> str | None:
    """The lease in the text of a failure that `tests.chaos.ledger.signed_failure` made."""
    words = (error_text or "").split()
    return words[1] if words[:1] == ["lease"] else None


def _wrong_objects(store: ObjectStore, found: Truth) -> list[str]:
    return [wrong for row in found.images if (wrong := _wrong_object(store, row["key"], row["sha256"]))]


def _wrong_object(store: ObjectStore, key: str, sha256: str) -> str | None:
    try:
        body = store.get(key)
    except MissingObjectError:
        return f"{key} is missing"
    except ObjectStoreError as error:
        return f"{key} isn't what its row says: {error}"
    return None if hashlib.sha256(body).hexdigest() == sha256 else f"{key} isn't what its row says"


def _sweep(engine: Engine, store: ObjectStore, batch: BatchId) -> int:
    return sum(map(len, sweep_batch(engine, store, batch, older_than=timedelta(seconds=-5))))


def _left_over(store: ObjectStore, name: str, found: Truth) -> list[str]:
    there, named = {item.key for item in store.list(f"{name}/images/")}, {row["key"] for row in found.images}
    return [f"{key} is unreferenced after a sweep" for key in sorted(there - named)] + [
        f"{key} was swept, and a row names it" for key in sorted(named - there)
    ]


def _place(row: Mapping[str, int]) -> Place:
    return row["ordinal"], row["index"]
