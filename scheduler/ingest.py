"""A manifest into the job table: all of it in one transaction, by COPY, once.

The batch is known by the digest of the manifest's bytes and of everything given with it, so the same submit again
finds the same batch, and a submit that is cut off leaves nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.dialects.postgresql import insert

from jobs import canaries, schema, targets
from jobs.errors import ManifestError, UsageError
from jobs.job import BatchId
from jobs.manifest import ManifestFile, Reject, RowRules, read_rows
from jobs.manifest import Row as ManifestRow
from jobs.policy import Policy
from jobs.windows import span
from scheduler.load import Load
from scheduler.rules import Reading

TELL_EVERY = 1_000
_FOLDER = "pictures_from"


@dataclass(frozen=True)
class Order:
    """What a user submits: a manifest, how to read it, and the batch's policy."""

    manifest: ManifestFile
    reading: Reading
    policy: Policy
    output: str
    default_model: str
    name: str | None = None

    def digest(self, folder: str | None = None) -> str:
        """SHA-256 that tells batches apart: the manifest's bytes and all that is given with it.

        `folder` is the manifest's where another of the same bytes means other pictures.
        """
        identity = {
            "manifest": self.manifest.sha256,
            "format": self.manifest.format,
            "reading": asdict(self.reading),
            "policy": self.policy.identity(),
            "output": self.output,
            "default_model": self.default_model,
            "name": self.name,
        } | ({"folder": folder} if folder else {})
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Ingested:
    """The batch that an order gave, or that it had given before."""

    id: BatchId
    name: str
    is_new: bool
    rows: int
    rejected: int
    jobs: int


def ingest(
    engine: Engine, order: Order, rules: RowRules, on_rows: Callable[[int], None] = lambda _: None
) -> Ingested:
    """Store the order's rows as queued jobs; the batch that is already there if it is known.

    `on_rows` is told the number of rows read so far. Raises ManifestError if the file is damaged, or, when strict, at
    the first row that can't be used; then nothing is stored. Raises UsageError if the name is taken.
    """
    with engine.begin() as connection:
        batch = _known(connection, order) or _create(connection, order)
        if not batch.is_new:
            return batch
        with Load(connection, batch.id, order.policy.batch_seed) as load:
            items = read_rows(order.manifest, rules)
            items = _strictly(items, order) if order.reading.strict else items
            while load.add(islice(items, TELL_EVERY)):
                on_rows(load.rows)
        if load.has_pictures:
            _note_folder(connection, batch.id, order)
        added = targets.fill_up(connection, batch.id) if order.policy.target else 0
        if order.policy.canary:
            canaries.send_ahead(connection, batch.id)
        return replace(batch, rows=load.rows, rejected=load.rejected, jobs=load.jobs + added)


def _strictly(items: Iterator[ManifestRow | Reject], order: Order) -> Iterator[ManifestRow | Reject]:
    for item in items:
        if isinstance(item, Reject):
            raise ManifestError(f"{describe(item, order.manifest.label)}; nothing was ingested (--strict)")
        yield item


def describe(reject: Reject, label: str) -> str:
    """A rejected row in one line: file, line, column, reason."""
    column = f", column {reject.column}" if reject.column else ""
    return f"{label}, line {reject.line}{column}: {reject.reason}"


def _known(connection: Connection, order: Order) -> Ingested | None:
    """The order's batch; one of the same digest isn't it where its pictures came from another folder."""
    folder = order.manifest.folder
    for digest in (order.digest(), order.digest(folder)):
        row = _with_digest(connection, digest)
        if row is not None and row.settings.get(_FOLDER, folder) == folder:
            return Ingested(row.id, row.name, False, row.rows, row.rejected, row.jobs)
    return None


def _with_digest(connection: Connection, digest: str) -> Row[Any] | None:
    statement = text("SELECT id, name, rows, rejected, jobs, settings FROM batches WHERE digest = :digest")
    return connection.execute(statement, {"digest": digest}).one_or_none()


def _note_folder(connection: Connection, batch: BatchId, order: Order) -> None:
    statement = text("UPDATE batches SET settings = settings || CAST(:more AS jsonb) WHERE id = :id")
    connection.execute(statement, {"id": batch, "more": json.dumps({_FOLDER: order.manifest.folder})})


def _create(connection: Connection, order: Order) -> Ingested:
    """A new, empty batch; the same one where another process makes it at this moment, once that has finished."""
    digest = order.digest()
    if _with_digest(connection, digest):
        digest = order.digest(order.manifest.folder)
    wanted = order.name or slug(order.manifest.stem)
    for name in [wanted] if order.name else [wanted, f"{wanted[:90]}-{digest[:8]}"]:
        values = _batch_values(order) | {"name": name, "digest": digest}
        statement = (
            insert(schema.batches).values(values).on_conflict_do_nothing().returning(schema.batches.c.id)
        )
        batch = connection.execute(statement).scalar_one_or_none()
        if batch is not None:
            return Ingested(batch, name, True, 0, 0, 0)
        if known := _known(connection, order):
            return known
    raise UsageError(
        f"the name {wanted!r} belongs to a batch of another manifest or other settings; choose another --name"
    )


def _batch_values(order: Order) -> dict[str, Any]:
    policy = order.policy.model_dump(mode="json") | {
        "not_before": order.policy.not_before,
        "deadline": order.policy.deadline,
    }
    opens_at, closes_at = span(order.policy.window, datetime.now(UTC))
    return {
        "opens_at": opens_at,
        "closes_at": closes_at,
        "manifest": order.manifest.label,
        "manifest_sha256": order.manifest.sha256,
        "settings": asdict(order.reading) | {"default_model": order.default_model},
        "output": order.output,
        "seed": policy.pop("batch_seed"),
        **policy,
    }


def slug(text: str) -> str:
    """A batch name made of a file's name: lower-case ASCII letters, digits, dots, dashes."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:90] or "batch"


def checked_name(name: str) -> str:
    """The name as given if it can name a batch, its folder and its keys; else UsageError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", name):
        raise UsageError(
            f"--name {name!r} can't name a batch: use lower-case letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit, at most 100, such as {slug(name)!r}"
        )
    return name
