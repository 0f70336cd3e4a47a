"""The tables of webhooks: receivers, the secrets that messages to them are signed with, and the messages."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.db.constraint_names_and_column_types import key, metadata, moment

webhooks = Table(
    "webhooks",
    metadata,
    key(),
    Column("url", Text, nullable=False, unique=True),
    Column("events", ARRAY(Text), comment="types of events that it wants; null: all"),
    Column(
        "allows_private",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="may be at a private address, and without TLS",
    ),
    moment("created_at", nullable=False, default="now()"),
    moment("ended_at"),
    Column("ended_because", Text, comment="why nothing is sent to it any more"),
    Column(
        "is_hook",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="url is a command, mailto: or URL that is told of single batches alone",
    ),
    CheckConstraint("(ended_at IS NULL) = (ended_because IS NULL)", "ended_because"),
    CheckConstraint("events <> '{}'", "events"),
)

# A table of its own, which roles that only read may not see.
webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    key(),
    Column("webhook_id", BigInteger, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("secret", Text, nullable=False, comment="whsec_ and base64"),
    Column("expires_at", DateTime(timezone=True), comment="null: the current one"),
    Index("webhook_secrets_webhook_id_idx", "webhook_id"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    key(),
    Column("webhook_id", BigInteger, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False, comment="its type"),
    Column("key", Text, nullable=False, comment="what happened: each webhook is told of it once"),
    Column("message_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    moment("created_at", nullable=False, default="now()"),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    moment("next_try_at", default="now()"),
    Column("lease", Uuid, comment="of who sends it; until next_try_at, when another one may"),
    Column("status", Integer, comment="HTTP status of the last answer"),
    Column("error", Text, comment="why the last attempt failed"),
    moment("ended_at"),
    CheckConstraint("state IN ('pending', 'delivered', 'dead')", "state"),
    CheckConstraint("(state = 'pending') = (ended_at IS NULL)", "ended_at"),
    CheckConstraint("(state = 'pending') = (next_try_at IS NOT NULL)", "next_try_at"),
    UniqueConstraint("key", "webhook_id"),
    Index(
        "webhook_deliveries_due_idx",
        "webhook_id",
        "next_try_at",
        postgresql_where=text("state = 'pending'"),
    ),
)
