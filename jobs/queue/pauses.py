"""Pauses of batches: by name, of a tenant's batches, or of all. A batch goes on when the last of them has ended.

`paused_at` is what keeps workers from claiming; `pauses` has a record for each pause that stands. Earlier versions, and
canaries, write `paused_at` alone: such a pause has no record, and no group's resume ends it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.states import CanaryVerdict

BY_NAME = "name"
"""The batch was named, or chosen by filters of its own."""
OF_ALL = "all"

IS_CANCELLED = "a cancelled batch can't be paused: `nightmill retry` queues its jobs again"
"""Why such a batch isn't paused."""

_IS_STOPPED = f"canary_verdict IS NOT DISTINCT FROM '{CanaryVerdict.STOPPED}'"

# A pause without a record that isn't a canary's becomes one by name, so that it outlasts the pause of a group.
_RECORDS = f"""CASE WHEN paused_at IS NULL THEN '{{}}'
        WHEN pauses = '{{}}' AND NOT ({_IS_STOPPED}) THEN jsonb_build_object('{BY_NAME}', jsonb_build_object(
            'who', NULL, 'at', paused_at, 'reason', NULL))
        ELSE pauses END"""

_PAUSE = text(f"""
    UPDATE batches SET paused_at = coalesce(paused_at, now()),
        pauses = {_RECORDS} || jsonb_build_object(CAST(:by AS text), jsonb_build_object(
            'who', CAST(:who AS text), 'at', now(),
            'reason', coalesce(CAST(:reason AS text), CASE WHEN paused_at IS NOT NULL
                THEN pauses -> CAST(:by AS text) ->> 'reason' END)))
    WHERE id = :id AND cancelled_at IS NULL RETURNING id
""")

_RESUME = text(f"""
    UPDATE batches SET paused_at = NULL, stopped_because = NULL, pauses = '{{}}',
        canary_verdict = CASE WHEN {_IS_STOPPED} THEN '{CanaryVerdict.OVERRULED}' ELSE canary_verdict END
    WHERE id = :id RETURNING id
""")

_END = text(f"""
    UPDATE batches SET pauses = pauses - CAST(:by AS text),
        paused_at = CASE WHEN pauses - CAST(:by AS text) <> '{{}}' OR {_IS_STOPPED} THEN paused_at END
    WHERE id = :id AND paused_at IS NOT NULL AND pauses ? CAST(:by AS text) RETURNING id
""")


def of_tenant(tenant: str) -> str:
    """Return how the pause of a tenant's batches is called in their records."""
    return f"tenant:{tenant}"


def pause(
    engine: Engine, batch: BatchId, by: str = BY_NAME, *, who: str | None = None, reason: str | None = None
) -> None:
    """Stop claims from the batch; workers finish the device batch that they are rendering.

    A reason that was given for the same pause before stays unless another is given. Raises UsageError for a cancelled
    batch: the mark would only stop what a later retry queues.
    """
    if not run(engine, _PAUSE, {"id": batch, "by": by, "who": who, "reason": reason}):
        raise UsageError(IS_CANCELLED)


def resume(engine: Engine, batch: BatchId) -> None:
    """Allow claims again, whatever has paused the batch, overruling a canary that has stopped it."""
    run(engine, _RESUME, {"id": batch})


def end_pause(engine: Engine, batch: BatchId, by: str) -> None:
    """End the pause of a group; the batch goes on if no other pause stands and its canary hasn't stopped it."""
    run(engine, _END, {"id": batch, "by": by})


def standing_pauses(
    paused_at: datetime | None, records: Mapping[str, Any], *, is_stopped: bool
) -> list[dict[str, Any]]:
    """Return the pauses of a batch that stand, oldest first, with by, who, at and reason; without that of a canary."""
    if paused_at is None:
        return []
    if not records and not is_stopped:
        return [{"by": BY_NAME, "who": None, "at": paused_at.isoformat(), "reason": None}]
    found = [
        {"by": by, "who": record["who"], "at": record["at"], "reason": record["reason"]}
        for by, record in records.items()
    ]
    return sorted(found, key=lambda pause: datetime.fromisoformat(pause["at"]))
