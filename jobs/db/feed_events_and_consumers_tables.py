"""The tables of events and of who reads them: what happened beside images, and how far each consumer has read."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

from jobs.db.constraint_names_and_column_types import Xid8, key, metadata, moment, one_of
from jobs.states import FINISHED, STORED_EVENTS, JobState

# An image row is the event of its image (decision 1). The other events have their ids from the same sequence, so that
# (epoch, xid, id) is one order over both tables.
events = Table(
    "events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="of the sequence of images"),
    Column("epoch", Integer, nullable=False, comment="as in images"),
    Column(
        "xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()"), comment="orders the feed"
    ),
    Column("kind", Text, nullable=False),
    Column("batch_id", BigInteger, nullable=False, comment="no foreign key: an event outlives its batch"),
    Column("batch", Text, nullable=False, comment="name of the batch"),
    Column("ordinal", BigInteger, comment="this and the next: as in images; null: of no single job"),
    Column("index", Integer),
    Column("row_id", Text),
    Column("job_id", BigInteger),
    Column("image_id", BigInteger, comment="the image row that was deleted"),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    CheckConstraint(one_of("kind", STORED_EVENTS), "kind"),
    Index("events_feed_idx", "epoch", "xid", "id"),
    Index("events_batch_id_idx", "batch_id", "ordinal", "index"),
)

consumers = Table(
    "consumers",
    metadata,
    Column("id", Integer, Identity(always=False), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column(
        "epoch", Integer, nullable=False, server_default=text("0"), comment="this and the next: the cursor"
    ),
    Column("xid", Xid8, nullable=False, server_default=text("'0'::xid8")),
    Column("position", BigInteger, nullable=False, server_default=text("0"), comment="id of image or event"),
    Column(
        "kinds", ARRAY(Text), nullable=False, server_default=text("'{image}'"), comment="events that it reads"
    ),
    Column("batch_id", BigInteger, comment="the batch that it reads; null: all"),
    moment("created_at", nullable=False, default="now()"),
    moment("acknowledged_at"),
    Column("filter", Text, comment="kinds, batch and condition, which stay; null: none read yet"),
    CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'", "name"),
)

archived_jobs = Table(
    "archived_jobs",
    metadata,
    key(),
    Column("batch_id", BigInteger, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("index", Integer, nullable=False),
    Column("row_id", Text),
    Column("job_id", BigInteger, nullable=False),
    Column("replaced_by", BigInteger, comment="the job that made up for it"),
    Column("state", Text, nullable=False, comment="in which the job ended without an image"),
    Column("attempt", Integer, nullable=False),
    Column("error_kind", Text),
    Column("error_text", Text),
    Column("meta", JSON, nullable=False),
    CheckConstraint(one_of("state", [state for state in FINISHED if state != JobState.DONE]), "state"),
    UniqueConstraint("batch_id", "ordinal", "index"),
)
