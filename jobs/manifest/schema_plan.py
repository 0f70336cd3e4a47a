"""Parse plans: how to convert the records of one shape into rows, computed once per shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from jobs.errors import ManifestError
from jobs.manifest.columns.header import find_misspelt, locate_columns, prompt_guess
from jobs.manifest.columns.input_images import PICTURE_COLUMNS
from jobs.manifest.columns.options import OPTION_COLUMNS, PLAIN_LENGTHS
from jobs.manifest.columns.sizes_and_inputs_of_other_tools import WAYS_OUT, watched_names
from jobs.manifest.raw_record import Shape
from jobs.manifest.types import RowRules
from jobs.manifest.values import are_plain, shown

Values = Mapping[str, Any]
Readers = Mapping[str, Callable[[object], Any]]


@dataclass(frozen=True)
class Plan:
    """How to read the records of one shape, and a cache (`found`) of their options by raw values.

    `free` holds (column, name in the file, parser, length up to which text is taken unchanged). `watched` are columns
    that may stand for known ones under another tool's name.
    """

    complaint: tuple[str | None, str] | None
    promptless: tuple[str, str]
    free: tuple[tuple[str, str, Callable[[object], Any], int], ...]
    has_pictures: bool
    option_names: tuple[str, ...]
    options: Callable[[Values], tuple[Any, ...]]
    meta_names: tuple[str, ...]
    has_plain_meta: bool
    watched: tuple[str, ...]
    found: dict[object, dict[str, Any]]


def make_plan(shape: Shape, rules: RowRules, free: Readers) -> Plan:
    """Make the plan of a shape; `free` maps the columns that are no options to their parsers."""
    types = dict(zip(shape.names, shape.types, strict=True))
    names = tuple(name for name in shape.names if name.strip().lower() not in rules.dropped)
    try:
        located = locate_columns(names, rules.renames)
        complaint = _complaint(names, located)
    except ManifestError as error:
        located, complaint = {}, (None, str(error))
    header = rules.renames.get("prompt", "prompt")
    taken = set(located.values())
    given = {column: name for column, name in located.items() if column not in rules.overrides}
    options = tuple(column for column in OPTION_COLUMNS if column in given)
    meta = tuple(name for name in names if name not in taken)
    return Plan(
        complaint=complaint,
        promptless=("prompt", "prompt is empty")
        if "prompt" in located
        else (
            header,
            f"there is no {shown(header)} in this row{'' if rules.renames.get('prompt') else prompt_guess(names)}",
        ),
        free=tuple(
            (name, given[name], parse, PLAIN_LENGTHS.get(name, 0) if types[given[name]] is str else 0)
            for name, parse in free.items()
            if name in given
        ),
        has_pictures=any(column in given for column in PICTURE_COLUMNS),
        option_names=options,
        options=_taker(tuple(given[column] for column in options)),
        meta_names=meta,
        has_plain_meta=are_plain(types[name] for name in meta),
        watched=watched_names(meta) if rules.watches_names else (),
        found={},
    )


def _complaint(names: tuple[str, ...], located: Values) -> tuple[str | None, str] | None:
    misspelt = find_misspelt(names, located)
    if misspelt is None:
        return None
    name, meant = misspelt
    return name, f"column {shown(name)} is not known; did you mean {meant!r}? {WAYS_OUT.format(name)}"


def _taker(keys: tuple[str, ...]) -> Callable[[Values], tuple[Any, ...]]:
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda values: tuple(values[key] for key in keys)
