"""Manifests beside images share the fate of their images: checked, retracted, swept, moved and deleted with them."""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from jobs.batches import actions, check_and_repair_objects, delete_files
from jobs.batches.move_images_to_another_output import delete_moved, move
from jobs.batches.retract_images import ImageRow, chosen_images, images_by_id, retract
from jobs.images.where_expression import compile_condition
from jobs.job_dataclasses import Image, Job
from jobs.outputs.ownership import OWNER, claim, owner_key
from jobs.queue import transitions
from jobs.storage import recognise_own_c2pa_sidecars
from jobs.storage.base import DamagedObjectError, MissingObjectError
from jobs.storage.image_and_c2pa_sidecar_files import image_files, put_files
from jobs.storage.key_layout import image_key, parse_image_key, quarantine_key, sidecar_key
from jobs.storage.open import ObjectStore, S3Options, open_store
from jobs.storage.recognise_own_c2pa_sidecars import MOST_SIDECAR_BYTES
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
        transitions.complete(engine, [stored(store, job, None if job.ordinal == 3 else "a manifest")])
    return batch


def stored(store: ObjectStore, job: Job, manifest: str | None, folder: str = "foxes") -> Image:
    """What a worker brings of an image whose files it has stored."""
    body = f"picture {job.ordinal}".encode()
    key, sidecar = uploaded(store, job.ordinal, body, manifest and manifest_of(body, manifest), folder)
    digest = sha256(body).hexdigest()
    return image(job, key=key, sha256=digest, bytes=len(body), c2pa_sidecar_sha256=sidecar)


def uploaded(
    store: ObjectStore, ordinal: int, body: bytes, manifest: bytes | None, folder: str = "foxes"
) -> tuple[str, str | None]:
    """Store the files of an image; returns its key, and the SHA-256 of its manifest."""
    digest, sidecar = sha256(body).hexdigest(), manifest and sha256(manifest).hexdigest()
    key = image_key(folder, ordinal, 0, digest, "png", sidecar)
    put_files(store, image_files(key, digest, "png", sidecar), [manifest, body] if manifest else [body])
    return key, sidecar


def manifest_of(body: bytes, text: str) -> bytes:
    """Stands for an image's manifest, in which its hash is."""
    return b"jumb" + text.encode() + b"dhash\x58\x20" + sha256(body).digest()


def signed_by_another(store: ObjectStore, key: str, body: bytes) -> str:
    """Put a manifest beside an image, as `c2patool --sidecar` does; returns its key."""
    beside = sidecar_key(key)
    store.put(beside, manifest_of(body, "by c2patool"), content_type="application/c2pa")
    return beside


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
    lost, _ = uploaded(store, 2, b"of a worker that died", manifest_of(b"of a worker that died", "lost"))
    half, _ = uploaded(store, 2, b"of another", manifest_of(b"of another", "stored first"))
    store.delete(half)
    mine = "foxes/images/000000/notes.c2pa"
    store.put(mine, b"a user's", content_type="application/c2pa")
    assert swept(engine, store, foxes) == sorted([lost, sidecar_key(lost), sidecar_key(half)])
    assert files(store) == sorted([*there, mine])
    transitions.render_again(engine, foxes.id, [(int(again["id"]), again["key"])], "missing")
    (job,) = take(engine, lanes_of(engine, foxes)[0])
    transitions.complete(engine, [stored(store, job, "another manifest")])
    assert swept(engine, store, foxes) == sorted(names(again))


def test_a_sweep_leaves_the_manifests_of_others(engine: Engine, store: ObjectStore, foxes: Ingested) -> None:
    """Beside an image that a row names, beside those that none does, and once such an image is swept."""
    *_, plain = rows_of(engine)
    named = signed_by_another(store, plain["key"], b"picture 3")
    lost, _ = uploaded(store, 3, b"of a worker that died", None)
    beside_lost = signed_by_another(store, lost, b"of a worker that died")
    huge, _ = uploaded(store, 3, b"another", manifest_of(b"another", "x" * MOST_SIDECAR_BYTES))
    assert swept(engine, store, foxes) == sorted([lost, huge])
    transitions.render_again(engine, foxes.id, [(int(plain["id"]), plain["key"])], "missing")
    (job,) = take(engine, lanes_of(engine, foxes)[0])
    transitions.complete(engine, [stored(store, job, "signed by now")])
    for left in ([plain["key"]], []):
        assert swept(engine, store, foxes) == left
        assert {named, beside_lost, sidecar_key(huge)} < set(files(store))


def test_rows_alone_tell_whose_the_manifests_beside_their_images_are(
    engine: Engine, store: ObjectStore, foxes: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody signs all images, the hourly sweep doesn't read all those files."""
    *_, plain = rows_of(engine)
    signed_by_another(store, plain["key"], b"picture 3")
    monkeypatch.setattr(recognise_own_c2pa_sidecars, "is_own_sidecar", lambda *_: True)
    assert swept(engine, store, foxes) == []


def test_delete_files_leaves_the_manifests_of_others(
    engine: Engine, store: ObjectStore, foxes: Ingested
) -> None:
    *_, plain = rows_of(engine)
    claim(engine, store, foxes.id, "foxes")
    named = signed_by_another(store, plain["key"], b"picture 3")
    kept = signed_by_another(store, quarantine_key(plain["key"]), b"picture 3")
    lost, _ = uploaded(store, 3, b"of a worker that died", manifest_of(b"of a worker that died", "lost"))
    store.put(quarantine_key(sidecar_key(lost)), store.get(sidecar_key(lost)), content_type="image/png")
    delete_files.delete_files(engine, store, actions.status(engine, "foxes"))
    assert files(store) == [named, kept]


def test_a_sweep_of_the_quarantine(engine: Engine, store: ObjectStore, tmp_path: Path) -> None:
    batch = make_batch(engine, 2, name="owls", output=str(tmp_path / "output"))
    first, second = take(engine, lanes_of(engine, batch)[0])
    for job in (first, second):
        row = stored(store, job, "a manifest", "owls")
        for key in (row.key, sidecar_key(row.key)):
            store.put(quarantine_key(key), store.get(key), content_type="image/png")
            store.delete(key)
        kept = {"image": row, "key": quarantine_key(row.key)} if job is first else {}
        transitions.block(engine, [replace(failure(job), **kept)])
    left = files(store)
    assert len(left) == 4
    # Signed by somebody else: a blocked image that no row names, and that which one names.
    key, _ = uploaded(store, 1, b"plain", None, "owls")
    plain = quarantine_key(key)
    store.put(plain, store.get(key), content_type="image/png")
    store.delete(key)
    mine = signed_by_another(store, plain, b"plain")
    assert swept(engine, store, batch) == sorted([*left[2:], plain])
    change(engine, "UPDATE quarantined_images SET image = image - 'c2pa_sidecar_sha256'")
    named = signed_by_another(store, left[1], b"picture 0")
    assert named == left[0]
    assert swept(engine, store, batch) == []
    assert files(store) == [*left[:2], mine]


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
    reads: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: reads.append(given[2]))
    delete_files.delete_files(engine, store, actions.status(engine, "foxes"))
    assert sum("FROM quarantined_images" in statement for statement in reads) == 1, "not for each page"
    assert files(store) == [mine]
    with pytest.raises(MissingObjectError):
        store.get(sidecar_key(rows[0]["key"]))
