"""The batch policy in the table `batches`: its columns, and the column `policy` with all keys that aren't defaults."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, get_args

from pydantic import ValidationError
from sqlalchemy import RowMapping

from jobs.policy.batch_policy import STORED, BatchPolicy, fields, policy_keys

Values = Mapping[str, Any] | RowMapping
SAFETY_KEYS = ("safety", "safety_strength", "safety_thresholds", "safety_checkers")
_SQL_TYPES = {bool: "boolean", int: "bigint", float: "float"}


@cache
def column_names() -> frozenset[str]:
    """Return the keys that are columns of `batches`; all others lie in its column `policy`."""
    return frozenset(name for name, key in policy_keys().items() if key.is_column)


def row_of(policy: BatchPolicy) -> dict[str, Any]:
    """Return the columns of a row of `batches` that hold the policy."""
    columns = column_names()
    rest = policy.model_dump(mode="json", exclude=set(columns), exclude_defaults=True)
    return {name: getattr(policy, name) for name in columns} | {"policy": rest}


def policy_of(row: Values) -> tuple[BatchPolicy, tuple[str, ...]]:
    """Return the policy of a row of `batches`, and the keys that only a later version knows, or their values."""
    values = row["policy"] | {name: row[name] for name in column_names()}
    known = {name: value for name, value in values.items() if name in fields()}
    try:
        policy = BatchPolicy.model_validate(known, context=STORED)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors()}
        known = {name: value for name, value in known.items() if name not in wrong}
        policy = BatchPolicy.model_validate(known, context=STORED)
    return policy, tuple(sorted(values.keys() - known.keys()))


def report_of(row: Values) -> dict[str, Any]:
    """Return all keys of a row's policy as JSON has them, defaults and keys of a later version too."""
    defaults = BatchPolicy().model_dump(mode="json")
    columns = {name: _plain(row[name]) for name in column_names()}
    return defaults | dict(row["policy"]) | columns


def sql_columns(table: str = "batches") -> str:
    """Return the list of SQL columns that hold the policy, for `policy_of`."""
    return ", ".join(f'{table}."{name}"' for name in ("policy", *sorted(column_names())))


def safety_of(policy: BatchPolicy) -> str:
    """Return the part of a stored policy by which images are judged, as JSON: equal texts are equal policies."""
    stored = row_of(policy)["policy"]
    return json.dumps({name: stored[name] for name in SAFETY_KEYS if name in stored}, sort_keys=True)


def is_safety_of_batch(given: str) -> str:
    """Return the SQL of whether a batch's policy judges images as `given` does, the SQL of a value of `safety_of`.

    True if that is null. Needs `batches`.
    """
    pairs = ", ".join(f"'{name}', batches.policy -> '{name}'" for name in SAFETY_KEYS)
    return f"""(CAST({given} AS jsonb) IS NULL
        OR jsonb_strip_nulls(jsonb_build_object({pairs})) = CAST({given} AS jsonb))"""


def sql_value(name: str) -> str:
    """Return the SQL expression for the value of a key in the column `policy`; needs `batches`."""
    field = fields()[name]
    allowed = get_args(field.annotation) or (field.annotation,)
    kind = next((kind for python, kind in _SQL_TYPES.items() if python in allowed), "text")
    value = f"CAST(batches.policy ->> '{name}' AS {kind})"
    return value if field.default is None else f"coalesce({value}, {field.default!r})"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
