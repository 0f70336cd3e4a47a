"""Exports a batch's image rows as Parquet or JSONL files, with `_SUCCESS` written last."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.actions import BatchStatus
from jobs.db.installation_id import this_installation
from jobs.errors import ObjectStoreError, UsageError
from jobs.images.row_serialisation import images_of
from jobs.outputs import export_inventory
from jobs.outputs.export_inventory import INCOMPLETE, SUCCESS, ExportPlace, Found
from jobs.storage.key_layout import EXPORT
from jobs.storage.open import ObjectStore, abort_uploads_of
from scheduler.export.exporters import exporter_of, format_names

ROWS_PER_FILE = 500_000

_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:place, 0))")


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export; `sha256` is its digest in hex."""

    name: str
    rows: int
    bytes: int
    sha256: str


def export(
    engine: Engine,
    batch: BatchStatus,
    format: str,
    store: ObjectStore,
    prefix: str = "",
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    overwrite: bool = False,
) -> list[ExportedFile]:
    """Write all current images of the batch; replaces this installation's earlier export of it at the same place.

    `_SUCCESS` is deleted first and written last, for readers to wait for; it holds the counts and every file's digest.
    Other files at the place are kept: beside the batch's images (a `prefix` of `<batch>/export/`) they are ignored;
    elsewhere UsageError names them, because readers of the folder would take them for a part of the export. With
    `overwrite`, files named like an export's are deleted, whoever wrote them.
    """
    exporter = exporter_of(format)
    beside = prefix == f"{batch.name}/{EXPORT}/"
    place = ExportPlace(store, prefix, batch.name, this_installation(engine).id, is_own=beside)
    with (
        engine.connect() as connection,
        tempfile.TemporaryDirectory() as folder,
    ):
        connection.execute(_ONE_AT_A_TIME, {"place": f"{store.uri}/{prefix}"})
        written = _cleared(
            place, export_inventory.look(place, format_names()), beside=beside, overwrite=overwrite
        )
        files: list[ExportedFile] = []
        with _uploads_aborted(written), closing(images_of(connection, batch.id)) as images:
            for number, rows in enumerate(_files(images)):
                path = Path(folder) / f"part-{number:05d}.{format}"
                count = exporter.write(path, _counted(rows, on_rows))
                files.append(_describe(path, count))
                written.add([asdict(files[-1])])
                store.put(prefix + path.name, path, content_type=exporter.content_type)
                path.unlink()
        store.put(
            f"{prefix}{SUCCESS}", _success(place, batch, format, files), content_type="application/json"
        )
        store.delete(prefix + INCOMPLETE)
    return files


def found_there(engine: Engine, batch: BatchStatus, store: ObjectStore, prefix: str = "") -> Found:
    """Return what the place holds: `in_the_way` is what `overwrite` would delete of files not written by us."""
    is_own = prefix == f"{batch.name}/{EXPORT}/"
    return export_inventory.look(
        ExportPlace(store, prefix, batch.name, this_installation(engine).id, is_own=is_own), format_names()
    )


@dataclass
class _Record:
    """The `_INCOMPLETE` of an export in progress: every file that it has written or is going to write next."""

    place: ExportPlace
    files: list[dict[str, Any]]

    def add(self, files: Sequence[dict[str, Any]]) -> None:
        self.files += files
        body = export_inventory.record_of(self.place, self.files)
        self.place.store.put(self.place.prefix + INCOMPLETE, body, content_type="application/json")


@contextmanager
def _uploads_aborted(record: _Record) -> Iterator[None]:
    """Abort the multipart uploads of an export that fails or is stopped: their parts are invisible and cost money."""
    try:
        yield
    except BaseException:
        with suppress(ObjectStoreError):  # what remains is aborted by the next export
            place = record.place
            abort_uploads_of(place.store, [place.prefix + file["name"] for file in record.files])
        raise


def _cleared(place: ExportPlace, found: Found, *, beside: bool, overwrite: bool) -> _Record:
    """Make room, or refuse; deletions are recorded in advance, so that an interrupted export's files are recognised."""
    _require_room(place, found, beside=beside, overwrite=overwrite)
    for name in found.in_the_way:
        place.store.delete(place.prefix + name)
    record = _Record(place, [])
    first = export_inventory.record_of(
        place, [{"name": name, "sha256": sha256} for name, sha256 in found.own.items()]
    )
    if INCOMPLETE in found.records:
        place.store.put(place.prefix + INCOMPLETE, first, content_type="application/json")
    elif not place.store.put_new(place.prefix + INCOMPLETE, first, content_type="application/json"):
        raise UsageError(
            f"another export is being written to {place.store.locate(place.prefix + INCOMPLETE)}"
        )
    place.store.delete(place.prefix + SUCCESS)
    abort_uploads_of(place.store, [place.prefix + name for name in found.recorded])
    for name in found.own:
        place.store.delete(place.prefix + name)
    return record


def _require_room(place: ExportPlace, found: Found, *, beside: bool, overwrite: bool) -> None:
    where = f"{place.store.uri}/{place.prefix}".rstrip("/")
    if found.in_the_way and not overwrite:
        raise UsageError(
            f"{where} holds {_some(found.in_the_way)}, which no export of {place.batch} by this installation wrote: "
            "export to another folder, or say --overwrite, which deletes them"
        )
    if found.others and not beside and not overwrite:
        raise UsageError(
            f"{where} holds {_some(found.others)}, which readers would take for a part of the export: export to an "
            "empty folder, or say --overwrite, which leaves them where they are"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _files(rows: Iterator[dict[str, Any]]) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the rows in portions of one file each; at least one, which may be empty."""
    first = next(rows, None)
    if first is None:
        yield iter(())
    while first is not None:
        yield chain([first], islice(rows, ROWS_PER_FILE - 1))
        first = next(rows, None)


def _counted(rows: Iterator[dict[str, Any]], on_rows: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    for row in rows:
        on_rows(1)
        yield row


def _describe(path: Path, rows: int) -> ExportedFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ExportedFile(path.name, rows, path.stat().st_size, digest)


def _success(place: ExportPlace, batch: BatchStatus, format: str, files: list[ExportedFile]) -> bytes:
    return export_inventory.record_of(
        place,
        [asdict(file) for file in files],
        format=format,
        images=sum(file.rows for file in files),
        counts=batch.counts,
        rejected=batch.rejected,
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
