"""Read tables that are contained in one JSON object.

Supported are those of pandas (`orient=` list, columns, index, split, table), `{"data": […]}` and `{"rows": […]}`, and
the batch input of model endpoints, `{"input_data": {"columns", "data", "index", "parameters"}}`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.manifest.columns.header import locate_columns, promptless_hint
from jobs.manifest.columns.spelling import OTHER_TOOLS, plain_name
from jobs.manifest.raw_record import Broken, Record
from jobs.manifest.values import printable, shown
from jobs.suggest_names_and_shorten_lists import some_of


class NoTableError(Exception):
    """The object contains no table of a known form; the message says why."""


def expand(record: Record, renames: Mapping[str, str]) -> Sequence[Record | Broken]:
    """Expand a batch input into its rows, all with the same line number; other records are returned as they are."""
    if not isinstance(record.values.get("input_data"), dict):
        return [record]
    try:
        rows = table_of(record.values, renames) or []
    except NoTableError as error:
        return [Broken(record.line, str(error), record.raw, "input_data")]
    if not rows:
        return [Broken(record.line, "input_data holds no rows", record.raw, "input_data")]
    return [Record(record.line, row, json.dumps(row, ensure_ascii=False), True) for row in rows]


def table_of(values: Mapping[str, Any], renames: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Return the rows contained in an object; None if it is a row itself. Raises NoTableError."""
    if isinstance(values.get("input_data"), dict):
        return _batch_input(values)
    prompt = locate_columns(list(values), renames).get("prompt")
    if prompt is not None:
        return _columns(values, prompt)
    if {"columns", "data"} <= values.keys():
        return _split(values)
    for key in ("data", "rows"):
        rows = values.get(key)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            return [_inner(row) for row in rows]
    inner = list(values.values())
    if inner and all(isinstance(part, dict) for part in inner):
        return _indexed(values, inner)
    raise NoTableError(_unknown(values))


def _batch_input(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the batch input of Azure ML's text-to-image endpoints."""
    held = values["input_data"]
    fixed: dict[str, Any] = {}
    for place in (values, held):
        for key in ("parameters", "params"):
            if isinstance(place.get(key), dict):
                fixed |= {_own_name(name): value for name, value in place[key].items()}
    unknown = sorted({*values} - {"input_data", "parameters", "params"})
    unknown += sorted({*held} - {"columns", "data", "index", "parameters", "params"})
    if unknown:
        raise NoTableError(f"input_data has {shown(unknown[0])} beside it or in it, which is not known")
    if not {"columns", "data"} <= held.keys():
        raise NoTableError("input_data has to have 'columns' and 'data'")
    return [row | {name: value for name, value in fixed.items() if name not in row} for row in _split(held)]


def _own_name(name: str) -> str:
    """Return the column for a parameter of diffusers."""
    return OTHER_TOOLS.get(plain_name(name), name)


def _split(held: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read `columns` and `data`, a list of rows or, for one column, of values; `index` holds the ids."""
    columns, data, index = held["columns"], held["data"], held.get("index")
    if not isinstance(columns, list) or not isinstance(data, list) or not columns:
        raise NoTableError("'columns' and 'data' have to be lists")
    if not all(isinstance(name, str) for name in columns) or len({*columns}) < len(columns):
        raise NoTableError("'columns' have to be different names")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise NoTableError(f"'index' has to be a list of as many ids as 'data' has rows, {len(data):,}")
    rows = []
    for number, cells in enumerate(data):
        cells = cells if isinstance(cells, list) else [cells]  # noqa: PLW2901
        if len(cells) != len(columns):
            raise NoTableError(
                f"row {number + 1} of 'data' has {len(cells)} values for {len(columns)} columns"
            )
        row = dict(zip(columns, cells, strict=True))
        rows.append(row if index is None else _with_id(row, index[number]))
    return rows


def _with_id(row: dict[str, Any], id: object) -> dict[str, Any]:
    return row if "id" in {name.strip().lower() for name in row} else {"id": id, **row}


def _inner(row: dict[str, Any]) -> dict[str, Any]:
    """Unwrap a row of Hugging Face's dataset viewer."""
    inner = row.get("row")
    return inner if "row_idx" in row and isinstance(inner, dict) else row


def _columns(values: Mapping[str, Any], prompt: str) -> list[dict[str, Any]] | None:
    """Read columns given as lists or as objects by row label; other values apply to all rows."""
    given = values[prompt]
    if not isinstance(given, list | dict):
        return None
    labels = list(range(len(given))) if isinstance(given, list) else list(given)
    for name, column in values.items():
        fits = list(range(len(column))) if isinstance(column, list) else column
        if isinstance(column, list | dict) and [*fits] != labels:
            raise NoTableError(f"column {shown(name)} hasn't the same rows as {shown(prompt)}")
    return [
        {name: part[label] if isinstance(part, list | dict) else part for name, part in values.items()}
        for label in labels
    ]


def _indexed(values: Mapping[str, Any], inner: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Read rows by label; the labels become ids."""
    if any("class_type" in part for part in inner):
        raise NoTableError("is a ComfyUI workflow, not rows; write its prompts and settings as rows")
    return [_with_id(row, label) for label, row in zip(values, inner, strict=True)]


def _unknown(values: Mapping[str, Any]) -> str:
    keys = some_of([printable(key, 40) for key in values], 10)
    tables = [
        key for key, part in values.items() if isinstance(part, list) and part and isinstance(part[0], dict)
    ]
    what = f"is one JSON object with {keys or 'nothing in it'}, not rows"
    if not tables:
        return f"{what}; write an array of objects, or one object a line"
    key = max(tables, key=lambda name: len(values[name]))
    first = values[key][0]
    told = f"{what}; take those in {shown(key)} out with jq -c '.{key}[]'"
    if any(name.strip().lower() == "prompt" for name in first):
        return told
    return f"{told}. {promptless_hint(list(first), first)}"
