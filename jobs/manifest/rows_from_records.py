"""Convert records into validated rows with defaults filled in, in a few microseconds each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from jobs.errors import ManifestError, UsageError
from jobs.manifest.columns.header import (
    MAX_COLUMNS,
    check_header,
    find_misspelt,
    locate_columns,
    surplus_columns,
)
from jobs.manifest.columns.input_images import PICTURE_COLUMNS, PictureFinder
from jobs.manifest.columns.loras import take_tags
from jobs.manifest.columns.mode_and_its_columns import Pictures
from jobs.manifest.columns.options import (
    FREE_COLUMNS,
    MAX_PROMPT,
    OPTION_COLUMNS,
    check_overrides,
    read_options,
)
from jobs.manifest.columns.sizes_and_inputs_of_other_tools import translated
from jobs.manifest.raw_record import Broken, ByShape, Record, Records, Shape, Shapes
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.records_of_file_or_recipe import read_records
from jobs.manifest.schema_plan import Plan, Readers, Values, make_plan
from jobs.manifest.types import ManifestFile, Reject, Row, RowRules
from jobs.manifest.values import (
    ProblemError,
    check_meta,
    check_storable,
    free_text,
    is_visible,
    missing,
    printable,
    shown,
)
from jobs.states import Mode

_MAX_OPTIONS = 2_000
_MAX_OPTION_TEXT = 1_000
_PROMPTLESS = 1_000


def read_rows(
    manifest: ManifestFile, rules: RowRules, counts: LineCounts | None = None
) -> Iterator[Row | Reject]:
    """Yield the rows of a manifest in order, each either valid and complete or a Reject with a reason.

    The line counts are added to `counts`; at the end, they cover all lines.

    The file is streamed: memory doesn't grow with its size. Raises ManifestError if the file can't be read (rows before
    the damage have been yielded by then), has no prompt column or no rows, and UsageError for an override that is
    invalid for all rows or that a recipe sweeps.
    """
    _check_sweep(manifest, rules)
    pictures = PictureFinder(manifest.folder, rules.image_roots).readers()
    check_overrides(rules, pictures, only_default=manifest.format == "txt")
    own_names = replace(rules, watches_names=manifest.format != "recipe")
    builder = _Builder(own_names, {**FREE_COLUMNS, **pictures})
    counts = counts if counts is not None else LineCounts()
    records = read_records(manifest, rules.renames, counts)
    if manifest.format in {"json", "jsonl"}:
        records = _with_prompts(records, rules, manifest.label)
    ordinal = -1
    for ordinal, record in enumerate(records):
        yield builder.build(ordinal, record)
    counts.lines = counts.lines or ordinal + 1
    counts.not_found = sorted(builder.not_found - {name.strip().lower() for name in counts.left_out})
    if ordinal < 0:
        raise ManifestError(f"{manifest.label}: has no rows; nothing to render.")


def _with_prompts(records: Records, rules: RowRules, label: str) -> Records:
    """Pass the records on; ManifestError if the first 1000, or all if fewer, have no prompt or init_image column."""
    waiting: list[Record | Broken] = []
    for record in records:
        waiting.append(record)
        if isinstance(record, Record) and _has_prompt(record, rules):
            break
        if len(waiting) == _PROMPTLESS:
            break
    first = next((record for record in waiting if isinstance(record, Record)), None)
    if first is not None and not _has_prompt(waiting[-1], rules):
        check_header(list(first.values), rules.renames, label, first.values)
    if waiting and not any(isinstance(record, Record) or "{" in str(record.raw) for record in waiting):
        line = printable(str(waiting[0].raw).strip(), 60)
        raise ManifestError(f"{label}: holds no JSON object; its first line is '{line}'.")
    return chain(waiting, records)


def _has_prompt(record: Record | Broken, rules: RowRules) -> bool:
    """Whether a record has a prompt or init_image column, or a misspelt prompt column."""
    if isinstance(record, Broken):
        return False
    if not missing(rules.overrides.get("init_image")) or len(record.values) > MAX_COLUMNS:
        return True
    try:
        located = locate_columns(list(record.values), rules.renames)
    except ManifestError:
        return True
    misspelt = find_misspelt(list(record.values), located)
    return not located.keys().isdisjoint({"prompt", "init_image"}) or (
        misspelt is not None and misspelt[1] == "prompt"
    )


def _check_sweep(manifest: ManifestFile, rules: RowRules) -> None:
    """Raise UsageError for an override of a swept column, which would produce duplicate rows."""
    swept = sorted(rules.overrides.keys() & (manifest.recipe.sweep.keys() if manifest.recipe else ()))
    if swept:
        raise UsageError(
            f"--set {swept[0]}: {manifest.label} sweeps {swept[0]}; take it out of there or leave --set out."
        )


class _Builder:
    """Converts records into rows; caches plans by the records' shapes, and options by their raw values."""

    def __init__(self, rules: RowRules, free: Readers) -> None:
        self._rules = rules
        self.not_found = set(rules.dropped)
        self._free = {"prompt": _prompt, **free}
        self._shapes = Shapes()
        self._plans: ByShape[Shape, Plan] = ByShape()
        self._remembered = 0
        self._option_overrides = {k: v for k, v in rules.overrides.items() if k in OPTION_COLUMNS}
        self._fixed = {name: parse(rules.overrides.get(name)) for name, parse in free.items()}
        self._fixed_pictures = self._pictures({})

    def build(self, ordinal: int, record: Record | Broken) -> Row | Reject:
        if isinstance(record, Broken):
            return _reject(ordinal, record, record.column, record.reason)
        if len(record.values) > MAX_COLUMNS:
            return _reject(ordinal, record, None, surplus_columns(len(record.values)))
        try:
            return self._row(ordinal, record)
        except ProblemError as problem:
            return _reject(ordinal, record, problem.column, problem.reason)

    def _row(self, ordinal: int, record: Record) -> Row:
        line, values, _, suspect, seed_ordinal, shape = record
        shape = shape or self._shapes.of(values)
        plan = self._plans.get(shape) or self._plan(shape)
        if plan.complaint:
            raise ProblemError(*plan.complaint)
        if plan.watched:
            known_values = translated(values, plan.watched)
            if known_values is not values:
                return self._row(ordinal, record._replace(values=dict(known_values), shape=None))
        if suspect:
            check_storable(values)
        fields: dict[str, Any] = {"ordinal": ordinal, "line": line, "seed_ordinal": seed_ordinal}
        for name, key, parse, plain_length in plan.free:
            value = values[key]
            is_plain = plain_length and 0 < len(value) <= plain_length and "!" <= value[0] <= "~"
            fields[name] = value if is_plain else parse(value)
        meta = fields["meta"] = {}
        for name in plan.meta_names:
            meta[name] = values[name]
        if not plan.has_plain_meta:
            check_meta(meta)
        raw = plan.options(values)
        if "<" in fields.get("prompt", ""):
            fields["prompt"], tags = take_tags(fields["prompt"])
            if tags:
                return self._finished(plan, self._options(plan, raw, fields, tags) | fields)
        known = (raw, self._pictures(fields)) if plan.has_pictures else raw
        try:
            row = plan.found[known] | fields
        except (KeyError, TypeError):
            found = self._options(plan, raw, fields)
            if sum(len(value) for value in raw if type(value) is str) <= _MAX_OPTION_TEXT:
                plan.found[known] = found
            row = found | fields
        if not row.setdefault("prompt", "") and row["mode"] != Mode.UPSCALE:
            raise ProblemError(*plan.promptless)
        return Row.of(row)

    def _finished(self, plan: Plan, row: dict[str, Any]) -> Row:
        if not row.setdefault("prompt", "") and row["mode"] != Mode.UPSCALE:
            raise ProblemError(*plan.promptless)
        return Row.of(row)

    def _options(
        self, plan: Plan, raw: tuple[Any, ...], fields: Values, lora_tags: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the options of a row, and the values of free columns that are set by `--set` or absent."""
        if self._remembered >= _MAX_OPTIONS:
            self._plans.clear()
            self._remembered = 0
        self._remembered += 1
        given = dict(zip(plan.option_names, raw, strict=True)) | self._option_overrides
        if lora_tags:
            own = given.get("lora")
            given["lora"] = "+".join([*([] if missing(own) else [str(own)]), *lora_tags])
        pictures = self._pictures(fields) if plan.has_pictures else self._fixed_pictures
        return self._fixed | read_options(given, self._rules, pictures)

    def _pictures(self, free: Values) -> Pictures:
        fields = {**self._fixed, **free}
        return Pictures(*(fields[column] is not None for column in PICTURE_COLUMNS))

    def _plan(self, shape: Shape) -> Plan:
        if self.not_found:
            self.not_found.difference_update(name.strip().lower() for name in shape.names)
        return self._plans.remember(shape, make_plan(shape, self._rules, self._free), shape)


def _prompt(value: object) -> str:
    """Parse a prompt; "" if it is missing or has no visible character, as rows of upscalers need none."""
    if missing(value):
        return ""
    if not isinstance(value, str):
        raise ProblemError("prompt", f"prompt must be text, not {shown(value)}")
    text = free_text("prompt", value, MAX_PROMPT)
    return text if is_visible(text) else ""


def _excerpt(raw: object) -> str:
    """Return a record as JSON, with cells cut to 200 characters and 20 columns: cells in Parquet may have megabytes.

    Unreadable values are replaced by "…". Objects with their own text form, such as a recipe's rows, use that.
    """
    if not isinstance(raw, (dict, list)):
        return str(raw)
    if isinstance(raw, dict):
        cells = raw.items()
        raw = {name: value[:200] if isinstance(value, str) else value for name, value in islice(cells, 20)}
    return json.dumps(raw, ensure_ascii=False, default=lambda _: "…")


def _reject(ordinal: int, record: Record | Broken, column: str | None, reason: str) -> Reject:
    raw = record.raw
    if isinstance(raw, bytes):
        raw = raw[:1000].decode("utf-8", "replace")
    text = raw if isinstance(raw, str) else _excerpt(raw)
    name = None if column is None else printable(column, 100)
    return Reject(ordinal, record.line, name, printable(reason, 500), printable(text, 200))
