"""Records into rows: defaults filled in, everything checked, at a few microseconds each."""

from collections.abc import Iterator
from typing import Any

from jobs.errors import ManifestError, UsageError
from jobs.manifest.modes import Pictures
from jobs.manifest.options import (
    FREE_COLUMNS,
    MAX_PROMPT,
    OPTION_COLUMNS,
    check_overrides,
    read_options,
)
from jobs.manifest.pictures import PICTURE_COLUMNS, PictureFinder
from jobs.manifest.plans import Plan, Readers, Values, make_plan
from jobs.manifest.raw import Broken, Record, Shape, Shapes
from jobs.manifest.readers import read_records
from jobs.manifest.records import ManifestFile, Reject, Row, RowRules
from jobs.manifest.values import (
    ProblemError,
    check_meta,
    check_storable,
    free_text,
    missing,
    printable,
    shown,
)
from jobs.states import Mode

_MAX_PLANS = 1000
_MAX_OPTIONS = 2_000


def read_rows(manifest: ManifestFile, rules: RowRules) -> Iterator[Row | Reject]:
    """The rows of a manifest in order, each valid and complete or rejected with a reason.

    Streams: memory doesn't grow with the file. Raises ManifestError when the file can't be read (rows before
    the damage have been yielded by then), has no prompt column or no rows, and UsageError for an override
    that no row could take or that a recipe sweeps.
    """
    _check_sweep(manifest, rules)
    pictures = PictureFinder(manifest.folder, rules.image_roots).readers()
    check_overrides(rules, pictures)
    builder = _Builder(rules, {**FREE_COLUMNS, **pictures})
    ordinal = -1
    for ordinal, record in enumerate(read_records(manifest, rules.renames)):
        yield builder.build(ordinal, record)
    if ordinal < 0:
        raise ManifestError(f"{manifest.label}: has no rows; nothing to render.")


def _check_sweep(manifest: ManifestFile, rules: RowRules) -> None:
    """One value for a swept column would make the same rows again and again."""
    swept = sorted(rules.overrides.keys() & (manifest.recipe.sweep.keys() if manifest.recipe else ()))
    if swept:
        raise UsageError(
            f"--set {swept[0]}: {manifest.label} sweeps {swept[0]}; take it out of there or leave --set out."
        )


class _Builder:
    """Turns records into rows; remembers plans by the records' shapes, and options by their raw values."""

    def __init__(self, rules: RowRules, free: Readers) -> None:
        self._rules = rules
        self._free = {"prompt": _prompt, **free}
        self._shapes = Shapes()
        self._plans: dict[Shape, Plan] = {}
        self._remembered = 0
        self._option_overrides = {k: v for k, v in rules.overrides.items() if k in OPTION_COLUMNS}
        self._fixed = {name: parse(rules.overrides.get(name)) for name, parse in free.items()}
        self._fixed_pictures = self._pictures({})

    def build(self, ordinal: int, record: Record | Broken) -> Row | Reject:
        if isinstance(record, Broken):
            return _reject(ordinal, record, record.column, record.reason)
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
        if suspect:
            check_storable(values)
        fields: dict[str, Any] = {"ordinal": ordinal, "line": line, "seed_ordinal": seed_ordinal}
        for name, key, parse, plain_length in plan.free:
            value = values[key]
            is_plain = plain_length and 0 < len(value) <= plain_length and not value.isspace()
            fields[name] = value if is_plain else parse(value)
        meta = fields["meta"] = {}
        for name in plan.meta_names:
            meta[name] = values[name]
        if not plan.has_plain_meta:
            check_meta(meta)
        raw = plan.options(values)
        known = (raw, self._pictures(fields)) if plan.has_pictures else raw
        try:
            row = plan.found[known] | fields
        except (KeyError, TypeError):
            found = plan.found[known] = self._options(plan, raw, fields)
            row = found | fields
        if not row.setdefault("prompt", "") and row["mode"] != Mode.UPSCALE:
            raise ProblemError(*plan.promptless)
        return Row.of(row)

    def _options(self, plan: Plan, raw: tuple[Any, ...], fields: Values) -> dict[str, Any]:
        """The options of a row, and those free columns that `--set` fixes or nobody gives."""
        if self._remembered >= _MAX_OPTIONS:
            self._plans.clear()
            self._remembered = 0
        self._remembered += 1
        given = dict(zip(plan.option_names, raw, strict=True)) | self._option_overrides
        pictures = self._pictures(fields) if plan.has_pictures else self._fixed_pictures
        return self._fixed | read_options(given, self._rules, pictures)

    def _pictures(self, free: Values) -> Pictures:
        fields = {**self._fixed, **free}
        return Pictures(*(fields[column] is not None for column in PICTURE_COLUMNS))

    def _plan(self, shape: Shape) -> Plan:
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = self._plans[shape] = make_plan(shape, self._rules, self._free)
        return plan


def _prompt(value: object) -> str:
    """Empty where there is none: what is only enlarged needs none."""
    if missing(value):
        return ""
    if not isinstance(value, str):
        raise ProblemError("prompt", f"prompt must be text, not {shown(value)}")
    return free_text("prompt", value, MAX_PROMPT)


def _reject(ordinal: int, record: Record | Broken, column: str | None, reason: str) -> Reject:
    raw = record.raw
    if isinstance(raw, bytes):
        raw = raw[:1000].decode("utf-8", "replace")
    text = raw if isinstance(raw, str) else str(raw)
    name = None if column is None else printable(column, 100)
    return Reject(ordinal, record.line, name, printable(reason, 500), printable(text, 200))
