"""Events of the feed that are no images: how statements write them, and `add_event` for whoever has a transaction.

An event is written by the transaction that makes the change, so that the feed, which orders by transactions, shows both
or neither. Its id comes from the sequence of image rows: (epoch, xid, id) orders events and image rows together.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from jobs.db.cluster_epochs import BEGUN, WRITTEN
from jobs.job_dataclasses import BatchId
from jobs.states import EventKind

ID = "nextval('images_id_seq')"

COLUMNS = 'id, epoch, kind, batch_id, batch, ordinal, "index", row_id, job_id, image_id, detail'

_ADD = text(f"""
    WITH {BEGUN}
    INSERT INTO events ({COLUMNS})
    SELECT {ID}, {WRITTEN}, :kind, CAST(:batch_id AS bigint), coalesce(CAST(:batch AS text), name),
        CAST(:ordinal AS bigint), CAST(:index AS int), CAST(:row_id AS text), CAST(:job_id AS bigint),
        CAST(:image_id AS bigint), CAST(:detail AS jsonb)
    FROM (SELECT max(name) AS name FROM batches WHERE id = :batch_id) AS b
    RETURNING id
""")


@dataclass(frozen=True)
class Event:
    """An event to be added; `detail` is any JSON object. The name of the batch is looked up if it isn't given."""

    kind: EventKind
    batch_id: BatchId
    batch: str | None = None
    ordinal: int | None = None
    index: int | None = None
    row_id: str | None = None
    job_id: int | None = None
    image_id: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def add_event(connection: Connection, event: Event) -> int:
    """Add an event in the caller's transaction; returns its id."""
    values = vars(event) | {"detail": json.dumps(event.detail)}
    added: int = connection.execute(_ADD, values).scalar_one()
    return added


def job_events(kind: EventKind, detail: Mapping[str, str], condition: str = "true") -> str:
    """Return the CTEs with which a statement writes an event for each job of `affected` that meets a condition.

    `detail` has the SQL of each value, where the job is `j`; nulls are left out. The statement may not include
    `jobs.db.cluster_epochs.BEGUN` itself.
    """
    return f"{BEGUN}, {more_job_events(kind, detail, condition)}"


def more_job_events(kind: EventKind, detail: Mapping[str, str], condition: str = "true") -> str:
    """Return the CTE of `job_events` for a statement that writes other events, too.

    These have lower ids where the condition reads them, as in ``(SELECT count(*) FROM event_log) > 0``.
    """
    return f"""{kind}_log AS (
        INSERT INTO events ({COLUMNS})
        SELECT {ID}, {WRITTEN}, '{kind}', j.batch_id, b.name, j.ordinal, j."index", j.row_id, j.id, NULL,
            {_json_object(detail)}
        FROM (SELECT * FROM affected WHERE {condition} ORDER BY id) AS j JOIN batches b ON b.id = j.batch_id
    )"""


def _json_object(values: Mapping[str, str]) -> str:
    """Return the SQL of a JSON object without nulls, of names and the SQL of their values."""
    pairs = ", ".join(f"'{name}', {value}" for name, value in values.items())
    return f"jsonb_strip_nulls(jsonb_build_object({pairs}))"


def retracted_events(reason: str = "CAST(:reason AS text)") -> str:
    """Return the CTEs with which a statement writes an event for each image row of `retracted`; see `job_events`.

    The statement has the parameter :keeps_file, and :reason, unless `reason` is other SQL, where the image is `i`.
    """
    detail = _json_object(
        {
            "reason": reason,
            "key": "i.key",
            "sha256": "i.sha256",
            "c2pa_sidecar_sha256": "i.c2pa_sidecar_sha256",
            "keeps_file": "CASE WHEN CAST(:keeps_file AS bool) THEN true END",
        }
    )
    return f"""{BEGUN}, event_log AS (
        INSERT INTO events ({COLUMNS})
        SELECT {ID}, {WRITTEN}, '{EventKind.RETRACTED}', i.batch_id, b.name, i.ordinal, i."index", i.row_id, i.job_id,
            i.id, {detail}
        FROM (SELECT * FROM retracted ORDER BY id) AS i JOIN batches b ON b.id = i.batch_id
        RETURNING id
    )"""
