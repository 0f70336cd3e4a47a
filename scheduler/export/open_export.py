"""Opens the export at a place: continues the one that is there, replaces an earlier one, or refuses the place."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import transact
from jobs.db.installation_id import this_installation
from jobs.errors import UsageError
from jobs.exports import records
from jobs.exports.delete_unreferenced_files import delete_unnamed
from jobs.exports.mark_outdated_shards import mark_shard
from jobs.exports.records import Export
from jobs.outputs import export_inventory
from jobs.outputs.export_inventory import INCOMPLETE, ExportPlace, Found
from jobs.storage.open import abort_uploads_of
from jobs.suggest_names_and_shorten_lists import some_of
from scheduler.export.columns_of_resumed_export import known_columns
from scheduler.export.compare_files_with_database import Compared, check_files
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import format_names
from scheduler.export.tables.drop_tables import table_in_catalog
from scheduler.export.tables.export_table import ExportTable, TablePlace

_IS_OUTDATED = text(f"""
    SELECT EXISTS (SELECT FROM export_shards s WHERE export_id = :export AND {records.IS_OUTDATED})
""")  # noqa: S608 - constants
_FINISH_AGAIN = text("UPDATE exports SET finished = NULL WHERE id = :export")
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:place, 0))")


OnChanged = Callable[[str, bool], object]
"""Called with the name of a file of the export that somebody changed, and whether it is written anew."""


def open_export(engine: Engine, request: ExportRequest, on_changed: OnChanged = lambda *_: None) -> Export:
    """Return the export that the request asks for, with shards for all rows of its batches.

    The same request again continues the export at the place: shards whose files are gone are written again; with `anew`
    all are, with all columns of this version. An earlier export of the same batches there, in another format or with
    other options, is replaced: its files are deleted when the new one is finished. Raises UsageError if the place holds
    files that this installation didn't write for these batches: other files are ignored beside the images, but
    elsewhere readers would take them for a part of the export. Files of the export that were changed are refused, too,
    if they would be replaced: without the request's `replace`.
    """
    opened = transact(engine, lambda connection: _open(engine, connection, request, on_changed))
    table = request.exporter.table(TablePlace(engine, request.store, opened))
    if table is not None:
        transact(engine, lambda connection: _open_table(engine, connection, request, opened, table))
    return opened


def _open_table(
    engine: Engine, connection: Connection, request: ExportRequest, export: Export, table: ExportTable
) -> None:
    """Open the export's table, and mark the shards that it has other files of than the database names."""
    connection.execute(_ONE_AT_A_TIME, {"place": f"{request.store.uri}/{request.prefix}"})
    shards = {shard.number: shard for shard in records.shards_of(engine, export.id)}
    published = {number: [file["name"] for file in shard.files] for number, shard in shards.items()}
    for number in table.open(published, replace=request.replace or request.overwrite):
        mark_shard(connection, export.id, number)


def place_of(engine: Engine, request: ExportRequest) -> ExportPlace:
    """Return the request's place, for its record files."""
    return ExportPlace(
        request.store,
        request.prefix,
        request.dataset,
        this_installation(engine).id,
        is_own=request.is_beside_images,
    )


def found_there(engine: Engine, request: ExportRequest) -> Found:
    """Return what the place holds: `in_the_way` is what `overwrite` would delete of files not written by us."""
    place = place_of(engine, request)
    with engine.connect() as connection:
        found = records.find_at(connection, request.store.uri, request.prefix)
    is_ours = found is not None and found.installation == place.installation
    known = records.recorded_digests(engine, found) if found is not None and is_ours else None
    there = export_inventory.look(place, format_names(), known)
    there.take_changed()
    return there


def _open(engine: Engine, connection: Connection, request: ExportRequest, on_changed: OnChanged) -> Export:
    place = place_of(engine, request)
    connection.execute(_ONE_AT_A_TIME, {"place": f"{request.store.uri}/{request.prefix}"})
    batches = [batch.id for batch in request.batches]
    found = records.find_at(connection, request.store.uri, request.prefix)
    if found is not None and found.installation != place.installation:  # copied here with the database
        records.delete(connection, found.id)
        found = None
    has_batches = found is not None and records.batches_of(connection, found.id) == batches
    if found is not None and has_batches and _is_same(found, request):
        compared = check_files(engine, connection, found, request)
        _make_room_beside(engine, found, request, compared)
        records.add_shards(connection, found.id, batches)
        _settle_changes(connection, found, request, compared, on_changed)
        if request.anew:
            found = records.begin_anew(connection, found, known_columns(request.exporter))
    else:
        replaced = _make_room(engine, connection, place, found, request, on_changed)
        found = records.create(
            connection,
            installation=place.installation,
            name=request.dataset,
            place=(request.store.uri, request.prefix),
            format=request.format,
            options=request.options.model_dump(mode="json", exclude_defaults=True),
            shard_rows=request.exporter.rows_of_shard,
            is_live=request.is_live,
            replaced=replaced,
            columns=known_columns(request.exporter),
        )
        records.add_shards(connection, found.id, batches)
    return found


def _is_same(found: Export, request: ExportRequest) -> bool:
    options = request.options.model_dump(mode="json", exclude_defaults=True)
    return (found.name, found.format, found.options) == (request.dataset, request.format, options)


def _settle_changes(
    connection: Connection, found: Export, request: ExportRequest, compared: Compared, on_changed: OnChanged
) -> None:
    """Refuse files that were changed and are to be written again, or have them written if the request allows that."""
    is_outdated = (
        connection.execute(_IS_OUTDATED, {"export": found.id}).scalar_one() or found.finished is None
    )
    is_written = is_outdated or bool(compared.gone_index)
    changed = [*compared.changed, *compared.changed_index]
    is_allowed = request.replace or request.overwrite
    if not is_allowed:
        _require_unchanged(request, changed if is_written else compared.changed)
    if compared.gone_index or (changed and is_allowed):
        connection.execute(_FINISH_AGAIN, {"export": found.id})
    for name in changed:
        on_changed(name, is_allowed)


def _require_unchanged(request: ExportRequest, changed: Sequence[str]) -> None:
    if changed:
        where = f"{request.store.uri}/{request.prefix}".rstrip("/")
        were = "was" if len(changed) == 1 else "were"
        raise UsageError(
            f"{where}: {some_of(changed, 5)} {were} changed since an export of {request.dataset} wrote it. Keep what "
            "is yours elsewhere and say --replace, which writes it anew, or export to another folder"
        )


def _make_room(
    engine: Engine,
    connection: Connection,
    place: ExportPlace,
    found: Export | None,
    request: ExportRequest,
    on_changed: OnChanged,
) -> Mapping[str, str]:
    """Claim the place for a new export; returns the SHA-256 by name of the files that it replaces."""
    known = records.recorded_digests(engine, found) if found else None
    there = export_inventory.look(place, format_names(), known)
    changed = there.take_changed()
    if not (request.replace or request.overwrite):
        _require_unchanged(request, changed)
    _require_room(request, there)
    for name in [*changed, *there.in_the_way]:
        request.store.delete(request.prefix + name)
    for name in changed:
        on_changed(name, True)
    abort_uploads_of(request.store, [request.prefix + name for name in there.recorded])
    if found is not None:
        if (table := table_in_catalog(engine, request.store, found)) is not None:
            table.drop()
        records.delete(connection, found.id)
    body = export_inventory.record_of(place, [{"name": n, "sha256": s} for n, s in there.own.items()])
    if INCOMPLETE in there.records:
        request.store.put(request.prefix + INCOMPLETE, body, content_type="application/json")
    elif not request.store.put_new(request.prefix + INCOMPLETE, body, content_type="application/json"):
        raise UsageError(
            f"another export is being written to {request.store.locate(request.prefix + INCOMPLETE)}"
        )
    return there.own


def _make_room_beside(engine: Engine, export: Export, request: ExportRequest, compared: Compared) -> None:
    """Delete what is named like files of the export, and isn't, if the request allows that, or refuse it.

    Beside the images it is left: the export was there before, and `run` would fail at its end.
    """
    if request.is_beside_images and not request.overwrite:
        return
    there = Found()
    for name in compared.others:
        there.add_foreign(name, format_names())
    _require_room(request, there)
    if request.overwrite:  # but what a shard has come to name meanwhile
        gone = [{"name": name} for name in there.in_the_way]
        delete_unnamed(
            engine, export.id, gone, lambda file: request.store.delete(request.prefix + file["name"])
        )


def _require_room(request: ExportRequest, found: Found) -> None:
    if request.overwrite:
        return
    where = f"{request.store.uri}/{request.prefix}".rstrip("/")
    if found.in_the_way:
        raise UsageError(
            f"{where} holds {some_of(found.in_the_way, 5)}, which no export of {request.dataset} by this installation "
            "wrote: export to another folder, or say --overwrite, which deletes them"
        )
    if found.others and not request.is_beside_images:
        raise UsageError(
            f"{where} holds {some_of(found.others, 5)}, which readers would take for a part of the export: export to "
            "an empty folder, or say --overwrite, which leaves them where they are"
        )
