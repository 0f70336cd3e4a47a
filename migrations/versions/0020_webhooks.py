"""Webhooks, the secrets that messages to them are signed with, and the messages

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# New tables get the privileges that `nightmill grants` has set by default; secrets aren't for roles that only read.
_HIDE_SECRETS = """
DO $$
DECLARE
    reader record;
BEGIN
    FOR reader IN
        SELECT grantee::regrole AS name FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = 'webhook_secrets'::regclass AND grantee <> 0
        GROUP BY grantee HAVING bool_and(privilege_type = 'SELECT')
    LOOP
        EXECUTE format('REVOKE ALL ON webhook_secrets FROM %s', reader.name);
    END LOOP;
END $$
"""


def _key():
    return sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True)


def _moment(name, **options):
    return sa.Column(name, sa.DateTime(timezone=True), **options)


def _webhook(table):
    return sa.Column(
        "webhook_id",
        sa.BigInteger(),
        sa.ForeignKey("webhooks.id", ondelete="CASCADE", name=op.f(f"{table}_webhook_id_fkey")),
        nullable=False,
    )


def upgrade() -> None:
    op.create_table(
        "webhooks",
        _key(),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", ARRAY(sa.Text()), comment="types of events that it wants; null: all"),
        sa.Column(
            "allows_private",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="may be at a private address, and without TLS",
        ),
        _moment("created_at", nullable=False, server_default=sa.text("now()")),
        _moment("ended_at"),
        sa.Column("ended_because", sa.Text(), comment="why nothing is sent to it any more"),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (ended_because IS NULL)", name=op.f("webhooks_ended_because_check")
        ),
        sa.CheckConstraint("events <> '{}'", name=op.f("webhooks_events_check")),
        sa.UniqueConstraint("url", name=op.f("webhooks_url_key")),
    )
    op.create_table(
        "webhook_secrets",
        _key(),
        _webhook("webhook_secrets"),
        sa.Column("secret", sa.Text(), nullable=False, comment="whsec_ and base64"),
        _moment("expires_at", comment="null: the current one"),
    )
    op.create_index("webhook_secrets_webhook_id_idx", "webhook_secrets", ["webhook_id"])
    op.execute(_HIDE_SECRETS)
    _create_deliveries()


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        _key(),
        _webhook("webhook_deliveries"),
        sa.Column("event", sa.Text(), nullable=False, comment="its type"),
        sa.Column("key", sa.Text(), nullable=False, comment="what happened: each webhook is told of it once"),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        _moment("created_at", nullable=False, server_default=sa.text("now()")),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'pending'")),
        sa.Column("attempts", sa.SmallInteger(), nullable=False, server_default=sa.text("0")),
        _moment("next_try_at", server_default=sa.text("now()")),
        sa.Column("lease", sa.Uuid(), comment="of who sends it; until next_try_at, when another one may"),
        sa.Column("status", sa.Integer(), comment="HTTP status of the last answer"),
        sa.Column("error", sa.Text(), comment="why the last attempt failed"),
        _moment("ended_at"),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'dead')", name=op.f("webhook_deliveries_state_check")
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (ended_at IS NULL)", name=op.f("webhook_deliveries_ended_at_check")
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (next_try_at IS NOT NULL)",
            name=op.f("webhook_deliveries_next_try_at_check"),
        ),
        sa.UniqueConstraint("key", "webhook_id", name=op.f("webhook_deliveries_key_webhook_id_key")),
    )
    op.create_index(
        "webhook_deliveries_due_idx",
        "webhook_deliveries",
        ["webhook_id", "next_try_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    for table in ("webhook_deliveries", "webhook_secrets", "webhooks"):
        op.drop_table(table)
