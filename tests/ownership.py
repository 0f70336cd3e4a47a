"""Rendered batches with their objects, and folders of other installations."""

import hashlib
from dataclasses import replace
from uuid import uuid4

from sqlalchemy import Engine

from jobs.outputs.ownership import Owner, owner_key, read_owner
from jobs.queue import transitions
from jobs.storage.open import ObjectStore
from scheduler.ingest.ingest import Ingested
from tests.factories import image, lanes_of, take


def give_to_another(store: ObjectStore, name: str) -> Owner:
    """Let a claimed folder belong to an installation that nobody here knows."""
    owner = read_owner(store, name)
    assert owner is not None
    another = replace(owner, installation=uuid4(), database="postgresql://elsewhere/theirs", host="elsewhere")
    store.put(owner_key(name), another.body(), content_type="application/json")
    return another


def render(engine: Engine, store: ObjectStore, batch: Ingested, body: bytes = b"a picture") -> list[str]:
    """Finish all jobs of a batch, with objects; returns their keys."""
    made = []
    for lane in lanes_of(engine, batch):
        for job in take(engine, lane):
            own = body + str(job.ordinal).encode()
            digest = hashlib.sha256(own).hexdigest()
            key = f"{batch.name}/images/000000/{job.ordinal:09d}-{job.index:05d}.{digest[:12]}.png"
            store.put(key, own, content_type="image/png")
            transitions.complete(engine, [image(job, key=key, sha256=digest, bytes=len(own))])
            made.append(key)
    return made
