"""Manifests beside images share the fate of their images: checked, retracted, swept, moved and deleted with them."""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.batches import actions, check_and_repair_objects, delete_files
from jobs.batches.move_images_to_another_output import delete_moved, move
from jobs.batches.retract_images import ImageRow, chosen_images, images_by_id, retract
from jobs.images.where_expression import compile_condition
from jobs.job_dataclasses import Job
from jobs.outputs.ownership import OWNER, claim, owner_key
from jobs.queue import transitions
from jobs.storage.base import DamagedObjectError, MissingObjectError
from jobs.storage.image_files import image_files, put_files
from jobs.storage.key_layout import image_key, parse_image_key, quarantine_key, sidecar_key
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.ingest.ingest import Ingested
from scheduler.orphaned_objects import sweep_batch
from tests.factories import change, failure, image, lanes_of, look, make_batch, states, take

NOW = timedelta(seconds=-5)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "output"), S3Options())


@pytest.fixture
def foxes(engine: Engine, store: ObjectStore, tmp_path: Path) -> Ingested:
    """Three images with their manifests beside them, and one without."""
    batch = make_batch(engine, 4, name="foxes", output=str(tmp_path / "output"))
    (lane,) = lanes_of(engine, batch)
    for job in take(engine, lane):
        transitions.complete(engine, [stored(store, job, None if job.ordinal == 3 else b"a manifest")])
    return batch


def stored(store: ObjectStore, job: Job, manifest: bytes | None, folder: str = "foxes") -> object:
    """What a worker brings of an image whose files it has stored."""
    body = f"picture {job.ordinal}".encode()
    digest, sidecar = sha256(body).hexdigest(), manifest and sha256(manifest).hexdigest()
    key = image_key(folder, job.ordinal, job.index, digest, "png", sidecar)
    put_files(store, image_files(key, digest, "png", sidecar), [manifest, body] if manifest else [body])
    return image(job, key=key, sha256=digest, bytes=len(body), c2pa_sidecar_sha256=sidecar)


def files(store: ObjectStore) -> list[str]:
    return [found.key for found in store.list("") if not found.key.endswith((OWNER, ".nightmill-output"))]


def names(*rows: dict[str, str]) -> list[str]:
    """The files that rows have."""
    both = [
        [row["key"], sidecar_key(row["key"])] if row["c2pa_sidecar_sha256"] else [row["key"]] for row in rows
    ]
    return sorted(key for keys in both for key in keys)


def rows_of(engine: Engine) -> list[dict[str, str]]:
    return look(engine, "SELECT * FROM images ORDER BY ordinal")


def problems(engine: Engine, store: ObjectStore) -> list[check_and_repair_objects.Wrong]:
    batch = actions.status(engine, "foxes")
    return [wrong for page in check_and_repair_objects.check(engine, store, batch) for wrong in page]


def swept(engine: Engine, store: ObjectStore, batch: Ingested) -> list[str]:
    return [found.key for page in sweep_batch(engine, store, batch.id, older_than=NOW) for found in page]


def test_keys_of_sidecars_are_those_of_their_images() -> None:
    digests = {"sha256": "ab" * 32, "extension": "png"}
    key = image_key("foxes", 1001, 2, **digests, sidecar_sha256="cd" * 32)
    other = image_key("foxes", 1001, 2, **digests, sidecar_sha256="ef" * 32)
    assert len({key, other, image_key("foxes", 1001, 2, **digests)}) == 3
    assert sidecar_key(key) == key.removesuffix("png") + "c2pa"
    assert parse_image_key(sidecar_key(key)) == parse_image_key(key) is not None
    assert sidecar_key(quarantine_key(key)) == quarantine_key(sidecar_key(key))
    assert parse_image_key(key.removesuffix("png") + "c3pa") is None


def test_check_tells_of_them_and_repair_renders_again(
    engine: Engine, store: ObjectStore, foxes: Ingested
) -> None:
    first, second, *_ = (row["key"] for row in rows_of(engine))
    assert problems(engine, store) == []
    store.delete(sidecar_key(first))
    store.put(sidecar_key(second), b"another's", content_type="application/c2pa")
    wrong = problems(engine, store)
    assert [(each.key, each.is_missing, each.reason) for each in wrong] == [
        (first, True, "its C2PA manifest isn't there"),
        (second, False, "its C2PA manifest has another SHA-256"),
    ]
    assert check_and_repair_objects.repair(engine, actions.status(engine, "foxes"), wrong) == 2
    assert states(engine, foxes.id) == {"queued": 2, "done": 2}


def test_what_stands_in_the_place_of_a_sidecar_is_in_nobodys_way(
    engine: Engine, store: ObjectStore, foxes: Ingested, tmp_path: Path
) -> None:
    """Rendered again, the image has another manifest, and both of its files another name."""
    first, second, *_ = (row["key"] for row in rows_of(engine))
    for key in (sidecar_key(first), second):
        store.delete(key)
        (tmp_path / "output" / key).mkdir()
    assert [(each.key, each.is_blocked) for each in problems(engine, store)] == [
        (first, False),
        (second, True),
    ]


@pytest.mark.parametrize("by_condition", [True, False])
def test_they_are_retracted_with_their_images(
    engine: Engine, store: ObjectStore, foxes: Ingested, *, by_condition: bool
) -> None:
    first, *others = rows_of(engine)
    batch = actions.status(engine, "foxes")
    chosen: list[ImageRow]
    if by_condition:
        (chosen,) = chosen_images(engine, foxes.id, compile_condition("ordinal = 0"))
    else:
        chosen = images_by_id(engine, [int(first["id"])])[foxes.id]
    assert retract(engine, batch, chosen, "bad", store) == (1, 1)
    assert files(store) == names(*others)
    (event,) = look(engine, "SELECT detail FROM events WHERE kind = 'retracted'")
    assert event["detail"]["c2pa_sidecar_sha256"] == first["c2pa_sidecar_sha256"]


def test_a_sweep_takes_those_that_no_row_names(engine: Engine, store: ObjectStore, foxes: Ingested) -> None:
    _, retracted, again, _ = rows_of(engine)
    batch = actions.status(engine, "foxes")
    chosen = images_by_id(engine, [int(retracted["id"])])[foxes.id]
    assert retract(engine, batch, chosen, "bad", None) == (1, 0)
    there = files(store)
    lost = [f"foxes/images/000000/000000002-00000.{'a' * 12}.{end}" for end in ("c2pa", "png")]
    for key in lost:
        store.put(key, b"of a worker that died", content_type="image/png")
    mine = "foxes/images/000000/notes.c2pa"
    store.put(mine, b"a user's", content_type="application/c2pa")
    assert swept(engine, store, foxes) == lost
    assert files(store) == sorted([*there, mine])
    # A sidecar that the row doesn't know of, beside an image that it names.
    change(engine, "UPDATE images SET c2pa_sidecar_sha256 = NULL WHERE ordinal = 3")
    (plain,) = look(engine, "SELECT key FROM images WHERE ordinal = 3")
    store.put(sidecar_key(plain["key"]), b"of nobody", content_type="application/c2pa")
    assert swept(engine, store, foxes) == [sidecar_key(plain["key"])]
    transitions.render_again(engine, foxes.id, [(int(again["id"]), again["key"])], "missing")
    (job,) = take(engine, lanes_of(engine, foxes)[0])
    transitions.complete(engine, [stored(store, job, b"another manifest")])
    assert swept(engine, store, foxes) == sorted(names(again))


def test_a_sweep_of_the_quarantine(engine: Engine, store: ObjectStore, tmp_path: Path) -> None:
    batch = make_batch(engine, 2, name="owls", output=str(tmp_path / "output"))
    first, second = take(engine, lanes_of(engine, batch)[0])
    for job in (first, second):
        row = stored(store, job, b"a manifest", "owls")
        for key in (row.key, sidecar_key(row.key)):
            store.put(quarantine_key(key), store.get(key), content_type="image/png")
            store.delete(key)
        kept = {"image": row, "key": quarantine_key(row.key)} if job is first else {}
        transitions.block(engine, [replace(failure(job), **kept)])
    left = files(store)
    assert len(left) == 4
    assert swept(engine, store, batch) == left[2:]
    assert files(store) == left[:2]


def test_they_are_moved_to_another_output(
    engine: Engine, store: ObjectStore, foxes: Ingested, tmp_path: Path
) -> None:
    there, rows = files(store), rows_of(engine)
    target = open_store(str(tmp_path / "new"), S3Options())
    claim(engine, target, foxes.id, "foxes")
    batch = actions.status(engine, "foxes")
    damaged = sidecar_key(rows[1]["key"])
    good = store.get(damaged)
    store.put(damaged, b"damaged", content_type="application/c2pa")
    with pytest.raises(DamagedObjectError, match="c2pa differs from its row: `nightmill check --repair`"):
        move(engine, batch, store, target, target.uri)
    store.put(damaged, good, content_type="application/c2pa")
    move(engine, batch, store, target, target.uri)
    delete_moved(engine, batch, store)
    assert (files(store), files(target)) == ([], there)
    assert problems(engine, target) == []


def test_they_are_deleted_with_the_batch(
    engine: Engine, store: ObjectStore, foxes: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if only rows say whose the files are, and over the borders of pages."""
    monkeypatch.setattr(delete_files, "PAGE", 1)
    rows = rows_of(engine)
    quarantined = rows[0]
    for key in (quarantined["key"], sidecar_key(quarantined["key"])):
        store.put(quarantine_key(key), store.get(key), content_type="image/png")
    change(
        engine,
        "INSERT INTO quarantined_images (job_id, batch_id, key, blocked_at, image) "
        "SELECT job_id, batch_id, :key, now(), to_jsonb(images) FROM images WHERE id = :id",
        key=quarantine_key(quarantined["key"]),
        id=quarantined["id"],
    )
    mine = sidecar_key(rows[3]["key"])  # its row has none
    store.put(mine, b"somebody's", content_type="application/c2pa")
    owner = claim(engine, store, foxes.id, "foxes")
    later = replace(owner, since=owner.since + timedelta(days=1))
    store.put(owner_key("foxes"), later.body(), content_type="application/json")
    delete_files.delete_files(engine, store, actions.status(engine, "foxes"))
    assert files(store) == [mine]
    with pytest.raises(MissingObjectError):
        store.get(sidecar_key(rows[0]["key"]))
