"""What a reader of the feed asks for, and the SQL of one page of it, over image rows and events."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import DateTime, Float

from jobs.images.insert_and_public_columns import PublicColumn, public_columns
from jobs.images.where_expression import Condition
from jobs.job_dataclasses import BatchId
from jobs.states import EventKind

PLACE = "{0}.epoch || '-' || {0}.xid || '-' || {0}.id"
"""SQL of the cursor of a row."""

EVENT_COLUMNS = {
    "batch_id": "e.batch_id",
    "image_id": "e.image_id",
    "batch": "e.batch",
    "job_id": "e.job_id",
    "ordinal": "e.ordinal",
    "index": 'e."index"',
    "row_id": "e.row_id",
    "created_at": "e.created_at",
    "detail": "e.detail",
}
"""The columns of an event besides `cursor` and `event`, its kind."""


@dataclass(frozen=True)
class FeedQuery:
    """What to read: events of some kinds, of one batch or all, and which images.

    `kinds` None: images alone, whose rows don't name their kind. `where` chooses among images; other events come
    whether or not the images that they are about were read.
    """

    kinds: tuple[EventKind, ...] | None = None
    batch: BatchId | None = None
    where: Condition | None = None

    @property
    def has_images(self) -> bool:
        """Whether images are read."""
        return self.kinds is None or EventKind.IMAGE in self.kinds

    @property
    def stored_kinds(self) -> list[str]:
        """The kinds to read of the table of events."""
        return [kind for kind in self.kinds or () if kind != EventKind.IMAGE]

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of the query, without those of the page."""
        more = self.where.values if self.where and self.has_images else {}
        return {"batch": self.batch, "kinds": self.stored_kinds, **more}

    @property
    def filter(self) -> str:
        """What the query chooses by, as text that equal queries share."""
        condition = self.where and [self.where.sql, sorted(self.where.values.items())]
        return json.dumps([sorted(self.kinds or (EventKind.IMAGE,)), self.batch, condition], default=str)

    def page(self, of_image: str, of_event: str) -> str:
        """Return the SQL of a page: (epoch, xid, id) and the given columns, of an image `i` or an event `e`.

        Its parameters are `values` and :epoch, :xid, :id (read from after these), :end_epoch, :end_xid, :limit.
        """
        parts = []
        if self.has_images:
            source = f"images i JOIN batches b ON b.id = i.batch_id WHERE {self._where_of_images()}"
            parts.append(_ordered("i", of_image, source))
        if self.stored_kinds:
            chosen = "e.kind = ANY (CAST(:kinds AS text[]))" + self._of_batch("e")
            parts.append(_ordered("e", of_event, f"events e WHERE {chosen}"))
        if len(parts) == 1:
            return parts[0]
        return (
            f"SELECT * FROM ({' UNION ALL '.join(f'({part})' for part in parts)}) AS feed "
            "ORDER BY epoch, xid, id LIMIT :limit"
        )

    def _where_of_images(self) -> str:
        return (self.where.sql if self.where else "true") + self._of_batch("i")

    def _of_batch(self, name: str) -> str:
        return "" if self.batch is None else f" AND {name}.batch_id = :batch"


def _ordered(name: str, columns: str, source: str) -> str:
    place = f"{name}.epoch, {name}.xid, {name}.id"
    return f"""SELECT {place}, {columns} FROM {source}
        AND ({place}) > (CAST(:epoch AS int), CAST(:xid AS xid8), CAST(:id AS bigint))
        AND ({name}.epoch, {name}.xid) < (CAST(:end_epoch AS int), CAST(:end_xid AS xid8))
        ORDER BY {place} LIMIT :limit"""


def json_columns(*, has_kind: bool) -> tuple[str, str]:
    """Return the SQL of a line of JSON, of an image `i` in the batch `b` and of an event `e`."""
    kind = f"'{EventKind.IMAGE}' AS event, i.batch_id, " if has_kind else ""
    own = ", ".join(f'{_json(column)} AS "{column.name}"' for column in public_columns())
    told = ", ".join(
        f'{_moment(sql) if name == "created_at" else sql} AS "{name}"' for name, sql in EVENT_COLUMNS.items()
    )
    of_image = f"{PLACE.format('i')} AS cursor, {kind}{own}"
    of_event = f"{PLACE.format('e')} AS cursor, e.kind AS event, {told}"
    return _line(of_image), _line(of_event)


def _line(columns: str) -> str:
    return f"(SELECT row_to_json(r) FROM (SELECT {columns}) AS r)::text AS line"


def _json(column: PublicColumn) -> str:
    """Return the SQL of a value as JSON has it: 7.0 stays a number with a fraction, times are in UTC."""
    sql = column.sql
    if isinstance(column.type, DateTime):
        return _moment(sql)
    if isinstance(column.type, Float):
        return (
            f"CASE WHEN {sql} = trunc({sql}) AND abs({sql}) < 1e15 THEN CAST(CAST({sql} AS text) || '.0' AS json) "
            f"ELSE to_json({sql}) END"
        )
    return sql


def _moment(sql: str) -> str:
    return f"""to_char({sql} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24\\:MI\\:SS.US"+00\\:00"')"""
