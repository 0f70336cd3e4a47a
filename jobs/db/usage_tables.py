"""Tables of what was used: worker seconds of lanes and workers in quarters of an hour, and what became of workers."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from jobs.db.constraint_names_and_column_types import key, metadata, moment, one_of
from jobs.states import WorkerEventKind

QUARTER_S = 900
"""Length of the periods that usage is added up in; they begin with the hour, in UTC."""

# No foreign keys: what a tenant has used stays when the batch is deleted.
lane_usage = Table(
    "lane_usage",
    metadata,
    moment("began_at", nullable=False),
    Column("batch_id", BigInteger, nullable=False),
    Column("lane_id", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("worker_s", Float, nullable=False, comment="from the pick of a lane to the next"),
    Column("device_s", Float, nullable=False, comment="of these, in device batches"),
    Column("joules", Float, comment="of the device, as it counts them; null: it doesn't"),
    Column("images", BigInteger, nullable=False),
    PrimaryKeyConstraint("began_at", "lane_id", "worker"),
    Index("lane_usage_batch_id_idx", "batch_id"),
    comment="sums of time slices by quarters of an hour",
)

worker_events = Table(
    "worker_events",
    metadata,
    key(),
    moment("at", nullable=False, default="now()"),
    Column("worker", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text),
    CheckConstraint(one_of("kind", WorkerEventKind), "kind"),
    Index("worker_events_at_idx", "at"),
)
