"""Change the stored policy of a batch."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Text, cast, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from jobs.db import schema
from jobs.db.engine import database_time
from jobs.errors import UsageError
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import column_names, policy_of, row_of
from jobs.policy.time_windows import span


def change_policy(connection: Connection, batch: int, changes: Mapping[str, Any]) -> None:
    """Change keys of a batch's policy and no others; UsageError if the policy as a whole would be wrong."""
    batches = schema.batches
    found = connection.execute(select(batches).where(batches.c.id == batch).with_for_update(key_share=True))
    for row in found:
        policy, _ = policy_of(row._mapping)
        new = row_of(_changed(policy, changes))
        values = {name: new[name] for name in changes if name in column_names()}
        if "window" in changes:
            values["opens_at"], values["closes_at"] = span(new["window"], database_time(connection))
        stored = {name: value for name, value in new["policy"].items() if name in changes}
        kept = batches.c.policy.op("-")(cast(list(changes), ARRAY(Text)))
        values["policy"] = kept.op("||")(cast(stored, JSONB))
        connection.execute(update(batches).where(batches.c.id == batch).values(values))


def _changed(policy: BatchPolicy, changes: Mapping[str, Any]) -> BatchPolicy:
    try:
        return BatchPolicy.model_validate(policy.model_dump() | dict(changes))
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
