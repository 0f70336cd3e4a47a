"""Records into rows: defaults filled in, everything checked, at a few microseconds each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from jobs.errors import ManifestError, UsageError
from jobs.manifest.columns import find_misspelt, locate_columns
from jobs.manifest.modes import Pictures
from jobs.manifest.options import FREE_COLUMNS, MAX_PROMPT, OPTION_COLUMNS, check_overrides, read_options
from jobs.manifest.pictures import PICTURE_COLUMNS, PictureFinder
from jobs.manifest.raw import Broken, Record
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

Values = Mapping[str, Any]
Readers = Mapping[str, Callable[[object], Any]]


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


@dataclass(frozen=True)
class _Plan:
    """What to take from records with one set of column names."""

    complaint: tuple[str | None, str] | None
    promptless: tuple[str, str]
    free: tuple[tuple[str, str, Callable[[object], Any]], ...]
    has_pictures: bool
    option_names: tuple[str, ...]
    options: Callable[[Values], tuple[Any, ...]]
    meta_names: tuple[str, ...]


class _Builder:
    """Turns records into rows; remembers plans by column names and options by their raw values."""

    def __init__(self, rules: RowRules, free: Readers) -> None:
        self._rules = rules
        self._free = {"prompt": _prompt, **free}
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._seen: dict[object, dict[str, Any]] = {}
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
        line, values, _, suspect, seed_ordinal = record
        names = tuple(values)
        plan = self._plans.get(names) or self._plan(names)
        if plan.complaint:
            raise ProblemError(*plan.complaint)
        if suspect:
            check_storable(values)
        fields: dict[str, Any] = {"ordinal": ordinal, "line": line, "seed_ordinal": seed_ordinal}
        for name, key, parse in plan.free:
            fields[name] = parse(values[key])
        meta = fields["meta"] = {}
        for name in plan.meta_names:
            meta[name] = values[name]
        check_meta(meta)
        row = self._options(plan, values, fields) | fields
        if not row.setdefault("prompt", "") and row["mode"] != Mode.UPSCALE:
            raise ProblemError(*plan.promptless)
        return Row.of(row)

    def _options(self, plan: _Plan, values: Values, fields: Values) -> dict[str, Any]:
        """The options of a row, and those free columns that `--set` fixes or nobody gives."""
        raw = plan.options(values)
        pictures = self._pictures(fields) if plan.has_pictures else self._fixed_pictures
        # True == 1 == 1.0 in Python, so the types belong to the key.
        key = plan.option_names, raw, *map(type, raw), pictures
        try:
            return self._seen[key]
        except (KeyError, TypeError):
            given = dict(zip(plan.option_names, raw, strict=True)) | self._option_overrides
            found = self._fixed | read_options(given, self._rules, pictures)
        if len(self._seen) >= _MAX_OPTIONS:
            self._seen.clear()
        self._seen[key] = found
        return found

    def _pictures(self, free: Values) -> Pictures:
        fields = {**self._fixed, **free}
        return Pictures(*(fields[column] is not None for column in PICTURE_COLUMNS))

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = self._plans[names] = _make_plan(names, self._rules, self._free)
        return plan


def _make_plan(names: tuple[str, ...], rules: RowRules, free: Readers) -> _Plan:
    try:
        located = locate_columns(names, rules.renames)
        complaint = _complaint(names, located)
    except ManifestError as error:
        located, complaint = {}, (None, str(error))
    header = rules.renames.get("prompt", "prompt")
    taken = set(located.values())
    given = {column: name for column, name in located.items() if column not in rules.overrides}
    options = tuple(column for column in OPTION_COLUMNS if column in given)
    return _Plan(
        complaint=complaint,
        promptless=("prompt", "prompt is empty")
        if "prompt" in located
        else (header, f"there is no {shown(header)} in this row"),
        free=tuple((name, given[name], parse) for name, parse in free.items() if name in given),
        has_pictures=any(column in given for column in PICTURE_COLUMNS),
        option_names=options,
        options=_taker(tuple(given[column] for column in options)),
        meta_names=tuple(name for name in names if name not in taken),
    )


def _complaint(names: tuple[str, ...], located: Values) -> tuple[str | None, str] | None:
    misspelt = find_misspelt(names, located)
    if misspelt is None:
        return None
    name, meant = misspelt
    return name, f"column {shown(name)} is not known; did you mean {meant!r}? Rename it in the file"


def _taker(keys: tuple[str, ...]) -> Callable[[Values], tuple[Any, ...]]:
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda values: tuple(values[key] for key in keys)


def _prompt(value: object) -> str:
    """Empty where there is none: what is only enlarged needs none."""
    if type(value) is str and len(value) <= MAX_PROMPT and value and not value.isspace():
        return value
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
