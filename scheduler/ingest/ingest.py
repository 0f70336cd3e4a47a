"""Ingest: stores a manifest's rows as jobs, by COPY, in one transaction, exactly once.

A batch is identified by the digest of the manifest's bytes and of the options that affect pixels or where they are
stored, so that repeating a submit finds the same batch. An interrupted submit leaves nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice, product
from typing import Any

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.dialects.postgresql import insert

from jobs.batches import accepted_image_quotas
from jobs.batches.status import is_number
from jobs.db import schema
from jobs.errors import ManifestError, UsageError
from jobs.job_dataclasses import BatchId
from jobs.manifest import LineCounts, ManifestFile, Reject, RowRules, read_rows
from jobs.manifest import Row as ManifestRow
from jobs.manifest.values import printable
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import row_of
from jobs.policy.time_windows import span
from jobs.queue import canary_rollout
from scheduler.ingest.bulk_insert import Load
from scheduler.ingest.duplicate_detection import Repeated
from scheduler.ingest.rules_from_catalogue import Reading

TELL_EVERY = 1_000
_FOLDER, _MODEL = "pictures_from", "default_model"


@dataclass(frozen=True)
class Order:
    """What a user submits: a manifest, how to read it, and the batch's policy."""

    manifest: ManifestFile
    reading: Reading
    policy: BatchPolicy
    output: str
    default_model: str
    name: str | None = None

    @property
    def circumstances(self) -> dict[str, str]:
        """Options that affect pixels only if rows depend on them, which is known once they have been read."""
        return {_FOLDER: printable(self.manifest.folder, 4_000), _MODEL: self.default_model}

    def digest(self, *depends: str) -> str:
        """Return the SHA-256 that identifies the batch: of the manifest and of the options that affect its images.

        `depends` names the circumstances to include: those in which otherwise equal batches differ.
        """
        identity = {
            "manifest": self.manifest.sha256,
            "format": self.manifest.format,
            "columns": dict(self.reading.columns),
            "renames": dict(self.reading.renames),
            "drop": sorted(self.reading.drop),
            "unique_ids": self.reading.unique_ids,
            "delimiter": self.manifest.delimiter,
            "policy": self.policy.identity(),
            "output": _without_slash(self.output),
            "name": self.name,
        }
        return _sha256({**identity, **{key: self.circumstances[key] for key in depends}})

    def older_digests(self) -> Iterator[str]:
        """Yield the digests that earlier versions computed, from all options that they included."""
        if self.reading.drop or self.reading.unique_ids or self.manifest.delimiter:
            return  # earlier versions had none of these
        output = _without_slash(self.output)
        for strict, end, folder in product((False, True), ("", "/"), ("", self.manifest.folder)):
            identity = {
                "manifest": self.manifest.sha256,
                "format": self.manifest.format,
                "reading": {
                    "columns": dict(self.reading.columns),
                    "renames": dict(self.reading.renames),
                    "strict": strict,
                },
                "policy": self.policy.identity(),
                "output": output + end,
                "default_model": self.default_model,
                "name": self.name,
            }
            yield _sha256({**identity, **({"folder": folder} if folder else {})})


def _without_slash(output: str) -> str:
    return output.rstrip("/") or "/"


def _sha256(identity: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Ingested:
    """The batch of an order, newly made or found."""

    id: BatchId
    name: str
    is_new: bool
    rows: int
    rejected: int
    jobs: int
    repeated_ids: int = 0
    lines: LineCounts | None = None


class ManyJobsError(UsageError):
    """The manifest makes more jobs than its user may have intended; nothing was stored."""


def ingest(
    engine: Engine,
    order: Order,
    rules: RowRules,
    on_rows: Callable[[int], None] = lambda _: None,
    max_jobs: int | None = None,
    on_batch: Callable[[Ingested], None] = lambda _: None,
) -> Ingested:
    """Store the order's rows as queued jobs; if the batch exists already, return it.

    `on_rows` is called with the number of rows read so far, `on_batch` with the batch before its first row, when
    raising still rolls everything back. Raises ManifestError if the file is damaged, or, when strict, at the first row
    that can't be used; then nothing is stored. Raises UsageError if the name is taken, and ManyJobsError if there would
    be over `max_jobs` jobs; for a recipe, before any row is made.
    """
    with engine.begin() as connection:
        batch = _known(connection, order) or _create(connection, order)
        on_batch(batch)
        if not batch.is_new:
            _check_strictly(batch, order)
            return batch
        _check_rows(order.manifest, max_jobs)
        with Load(connection, batch.id, order.policy.batch_seed) as load:
            lines = LineCounts()
            items = read_rows(order.manifest, rules, lines)
            items = _strictly(items, order) if order.reading.strict else items
            items = items if max_jobs is None else _few(items, order.manifest.label, max_jobs)
            while load.add(islice(items, TELL_EVERY)):
                on_rows(load.rows)
        again = load.repeated_ids()
        if order.reading.unique_ids:
            refuse_repeated(again, order.manifest.label)
        _note(connection, batch.id, order, load)
        added = _fill_up(connection, batch.id, order, load.jobs, max_jobs) if order.policy.target else 0
        if order.policy.canary:
            canary_rollout.send_ahead(connection, batch.id)
        return replace(
            batch,
            rows=load.rows,
            rejected=load.rejected,
            jobs=load.jobs + added,
            repeated_ids=again.number,
            lines=lines,
        )


def _fill_up(connection: Connection, batch: BatchId, order: Order, jobs: int, max_jobs: int | None) -> int:
    """Repeat rows until each value reaches the target; ManyJobsError if that makes too many jobs."""
    if max_jobs is not None and (many := jobs + accepted_image_quotas.missing(connection, batch)) > max_jobs:
        raise ManyJobsError(f"{order.manifest.label}: makes {many:,} images to reach its target")
    return accepted_image_quotas.fill_up(connection, batch)


def _check_rows(manifest: ManifestFile, max_jobs: int | None) -> None:
    """Raise ManyJobsError by a recipe's number of rows, which is known without reading them."""
    if max_jobs is not None and (manifest.rows or 0) > max_jobs:
        raise ManyJobsError(f"{manifest.label}: makes {manifest.rows:,} rows, each of one image or more")


def _few(items: Iterator[ManifestRow | Reject], label: str, max_jobs: int) -> Iterator[ManifestRow | Reject]:
    jobs = 0
    for item in items:
        if isinstance(item, ManifestRow):
            jobs += item.num_images
            if jobs > max_jobs:
                raise ManyJobsError(
                    f"{label}: makes {jobs:,} images up to line {item.line}, and isn't read further"
                )
        yield item


def _strictly(items: Iterator[ManifestRow | Reject], order: Order) -> Iterator[ManifestRow | Reject]:
    for item in items:
        if isinstance(item, Reject):
            raise ManifestError(f"{describe(item, order.manifest.label)}; nothing was ingested (--strict)")
        yield item


def _check_strictly(batch: Ingested, order: Order) -> None:
    if order.reading.strict and batch.rejected:
        raise ManifestError(
            f"{order.manifest.label} is batch {batch.name} already, of which {batch.rejected:,} rows were rejected: "
            f"`nightmill rejects {batch.name}` says why (--strict)"
        )


def refuse_repeated(again: Repeated, label: str) -> None:
    """Raise ManifestError for ids that occur on earlier lines."""
    if again.number:
        shown = ", ".join(map(str, again.lines[:10]))
        raise ManifestError(
            f"{label}: {again.number:,} ids are repeated, lines {shown}; nothing was ingested (--unique-ids)."
        )


def describe(reject: Reject, label: str) -> str:
    """Return a rejected row in one line: file, line, column, reason."""
    column = f", column {reject.column}" if reject.column else ""
    return f"{label}, line {reject.line}{column}: {reject.reason}"


def _known(connection: Connection, order: Order) -> Ingested | None:
    """Return the order's batch if it exists, including one made by an earlier version."""
    _, row = _place(connection, order)
    for digest in () if row else order.older_digests():
        found = _with_digest(connection, digest)
        if found and _FOLDER not in _differences(found, order):
            row = row or found
    return Ingested(row.id, row.name, False, row.rows, row.rejected, row.jobs) if row else None


def _place(connection: Connection, order: Order) -> tuple[str, Row[Any] | None]:
    """Return the order's digest and the batch that has it, unless that batch depends on different circumstances."""
    depends: set[str] = set()
    while True:
        digest = order.digest(*sorted(depends))
        row = _with_digest(connection, digest)
        more = _differences(row, order) - depends if row else set()
        if not more:
            return digest, row
        depends |= more


def _differences(row: Row[Any], order: Order) -> set[str]:
    return {key for key, value in order.circumstances.items() if row.settings.get(key, value) != value}


def _with_digest(connection: Connection, digest: str) -> Row[Any] | None:
    statement = text("SELECT id, name, rows, rejected, jobs, settings FROM batches WHERE digest = :digest")
    return connection.execute(statement, {"digest": digest}).one_or_none()


def _note(connection: Connection, batch: BatchId, order: Order, load: Load) -> None:
    """Store the circumstances that the rows depend on."""
    is_used = {_FOLDER: load.has_pictures, _MODEL: load.has_default_model}
    used = {key: value for key, value in order.circumstances.items() if is_used[key]}
    statement = text("UPDATE batches SET settings = settings || CAST(:more AS jsonb) WHERE id = :id")
    connection.execute(statement, {"id": batch, "more": json.dumps(used)})


def _create(connection: Connection, order: Order) -> Ingested:
    """Create an empty batch; if another process is creating the same one, wait for it and return that."""
    digest, _ = _place(connection, order)
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
    opens_at, closes_at = span(order.policy.window, datetime.now(UTC))
    return {
        "opens_at": opens_at,
        "closes_at": closes_at,
        "manifest": order.manifest.label,
        "manifest_sha256": order.manifest.sha256,
        "settings": asdict(order.reading),
        "output": order.output,
        **row_of(order.policy),
    }


def slug(text: str) -> str:
    """Make a batch name from a file name: lower-case ASCII letters, digits, dots, dashes; never a number."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:90] or "batch"
    return f"batch-{name}" if is_number(name) else name


def checked_name(name: str) -> str:
    """Return the name if it is valid for a batch, its folder and its keys; else raise UsageError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", name):
        raise UsageError(
            f"--name {name!r} can't name a batch: use lower-case letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit, at most 100, such as {slug(name)!r}"
        )
    if is_number(name):
        raise UsageError(
            f"--name {name!r} can't name a batch: commands take a number for the number of a batch; "
            f"use a name such as {slug(name)!r}"
        )
    return name
