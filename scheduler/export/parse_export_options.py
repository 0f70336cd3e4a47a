"""Reads the options of an export as they are written on the command line."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine

from jobs.batches.status import status
from jobs.errors import UsageError
from jobs.exports import records
from jobs.images.where_expression import VERDICTS, compile_condition
from jobs.job_dataclasses import BatchId
from jobs.suggest_names_and_shorten_lists import nearest
from scheduler.export.export_options import ExportOptions, GivenOptions
from scheduler.export.rows.export_columns import export_schema
from scheduler.export.rows.find_meta_columns import find_meta_columns
from scheduler.export.rows.partition_columns import check_number_of_partitions, check_partition_columns
from scheduler.export.tables.catalog_names import OWN, check_catalog, table_name

_FORMATS: Mapping[str, Collection[str]] = {
    "catalog": ("iceberg",),
    "columns": ("csv", "hf", "iceberg", "jsonl", "lance", "parquet"),
    "copy_images": ("csv", "jsonl", "parquet"),
    "embed_images": ("csv", "jsonl"),
    "layout": ("hf",),
    "meta_columns": ("csv", "hf", "iceberg", "lance", "parquet", "webdataset"),
    "partition_by": ("parquet",),
    "split": ("hf",),
    "table": ("iceberg",),
}
"""Which formats an option is for, where not for all."""


def parse_export_options(
    engine: Engine,
    batches: Sequence[BatchId],
    format: str,
    given: GivenOptions,
    place: tuple[str, str] = ("", ""),
    dataset: str = "",
) -> ExportOptions:
    """Return the options of an export to a place, the URI of its store and the prefix in it.

    Columns of `meta`, a catalog and a table that aren't given are those of the export that is there, in the same
    format; else the columns are found in the batches' rows, and the table is called like the dataset: it keeps its name
    when a batch is renamed. Raises UsageError for what makes no sense, or isn't for the format.
    """
    for name, formats in _FORMATS.items():
        if getattr(given, name) and format not in formats:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for the format {', '.join(formats)}, not for {format}")
    if given.copy_images and place[1]:
        raise UsageError("--copy-images: beside the images there is no need of copies; say --to FOLDER")
    there = _options_there(engine, format, place)
    values: dict[str, Any] = {
        "copy_images": given.copy_images,
        "path_prefix": "../" * place[1].count("/"),
        "embed_images": given.embed_images,
        "meta_columns": _meta_columns(engine, batches, format, given, there),
        "catalog": _catalog(given.catalog, there),
        "table": _table(given.table, there, format, dataset),
    }
    if given.where:
        values |= _where(engine, batches, given.where)
    if given.columns:
        values["columns"] = _parts(given.columns)
    if given.partition_by:
        values["partition_by"] = _parts(given.partition_by)
    if given.split:
        values["split"] = [_share(part) for part in _parts(given.split)]
    if given.layout:
        values["layout"] = given.layout
    options = _checked(values)
    _check_columns(options)
    check_partition_columns(options)
    check_number_of_partitions(engine, batches, options)
    return options


def _where(engine: Engine, batches: Sequence[BatchId], where: str) -> dict[str, Any]:
    condition = compile_condition(where, VERDICTS)
    awaits_verdicts = any(verdict in condition.sql for verdict in VERDICTS.values())
    if awaits_verdicts and (unjudged := [name for batch in batches if (name := _unjudged(engine, batch))]):
        raise UsageError(
            f"--where names `accepted`, and batch {unjudged[0]} has no policy `accept` by which images are accepted"
        )
    return {"where": where, "awaits_verdicts": awaits_verdicts}


def _unjudged(engine: Engine, batch: BatchId) -> str | None:
    """Return the name of a batch whose images nobody judges; None for others."""
    found = status(engine, str(batch))
    return None if "accept" in json.loads(found.policy) else found.name


def _options_there(engine: Engine, format: str, place: tuple[str, str]) -> Mapping[str, Any] | None:
    """Return the options of the export that is there in the same format, as stored."""
    with engine.connect() as connection:
        found = records.find_at(connection, *place)
    return found.options if found is not None and found.format == format else None


def _catalog(given: str | None, there: Mapping[str, Any] | None) -> str:
    if given is None:
        return str((there or {}).get("catalog", ""))
    check_catalog(given)
    return "" if given == OWN else given


def _table(given: str | None, there: Mapping[str, Any] | None, format: str, dataset: str) -> str:
    if given or format not in _FORMATS["table"]:
        return given or ""
    return str((there or {}).get("table") or ".".join(table_name("", dataset)))


def _meta_columns(
    engine: Engine,
    batches: Sequence[BatchId],
    format: str,
    given: GivenOptions,
    there: Mapping[str, Any] | None,
) -> Sequence[Sequence[str]]:
    if given.meta_columns is not None:
        pairs = [_pair("--meta-columns", part, ":") for part in _parts(given.meta_columns)]
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise UsageError(f"--meta-columns names {twice[0]!r} twice: a key has one type")
        return pairs
    if there is not None:
        return list(there.get("meta_columns", ()))
    return find_meta_columns(engine, batches) if format in _FORMATS["meta_columns"] else ()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(option: str, part: str, sign: str) -> tuple[str, str]:
    name, found, value = part.rpartition(sign)
    if not found or not name or not value:
        raise UsageError(f"{option} {part}: write NAME{sign}VALUE, several joined by commas")
    return name.strip(), value.strip()


def _share(part: str) -> tuple[str, float]:
    name, share = _pair("--split", part, "=")
    try:
        return name, float(share)
    except ValueError:
        raise UsageError(f"--split {part}: {share!r} is no number between 0 and 1") from None


def _checked(values: Mapping[str, Any]) -> ExportOptions:
    try:
        return ExportOptions(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        option = f"--{str(problem['loc'][0]).replace('_', '-')}"
        raise UsageError(f"{option}: {problem['msg'].removeprefix('Value error, ')}") from None


def _check_columns(options: ExportOptions) -> None:
    known = export_schema(options).names
    for name in options.columns:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"--columns: there is no column {name!r}; {hint}")
    if len(set(options.columns)) < len(options.columns):
        raise UsageError("--columns names a column twice")
