"""Exports and their shards

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def _json(name, default=None, **options):
    return sa.Column(
        name, JSONB, nullable=default is None, server_default=default and sa.text(default), **options
    )


def _flag(name, **options):
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.text("false"), **options)


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "exports",
        sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
        sa.Column(
            "installation",
            sa.Uuid,
            nullable=False,
            comment="that writes it: a restored database is another one",
        ),
        sa.Column("name", sa.Text, nullable=False, comment="of the dataset"),
        sa.Column(
            "output",
            sa.Text,
            nullable=False,
            comment="store that holds the export: a folder or s3://bucket/prefix",
        ),
        sa.Column(
            "prefix", sa.Text, nullable=False, comment="folder in the store: empty, or ends in a slash"
        ),
        sa.Column("format", sa.Text, nullable=False),
        _json("options", "'{}'", comment="ExportOptions, not defaults"),
        sa.Column("shard_rows", sa.Integer, nullable=False, comment="manifest rows of a shard"),
        _flag("is_live", comment="schedulers write shards as soon as they can be sealed"),
        sa.Column("created_at", moment, nullable=False, server_default=sa.text("now()")),
        _json(
            "replaced",
            "'{}'",
            comment="files of an earlier export at the place, name: SHA-256; deleted when this one is finished",
        ),
        _json("files", "'[]'", comment="of the export as a whole, such as its card"),
        sa.Column("finished", sa.Text, comment="digest of the shards that `_SUCCESS` names"),
        sa.Column("finished_at", moment),
        _flag("is_complete"),
        sa.Column("error", sa.Text, comment="why the last try to write a shard failed"),
        sa.Column("lease", sa.Uuid, comment="of who writes `_SUCCESS`"),
        sa.Column("lease_until", moment),
        sa.CheckConstraint("shard_rows > 0", name=op.f("exports_shard_rows_check")),
        sa.CheckConstraint("prefix = '' OR prefix LIKE '%/'", name=op.f("exports_prefix_check")),
        sa.UniqueConstraint("output", "prefix", name=op.f("exports_output_prefix_key")),
    )
    op.create_table(
        "export_shards",
        sa.Column(
            "export_id",
            sa.BigInteger,
            sa.ForeignKey("exports.id", ondelete="CASCADE", name=op.f("export_shards_export_id_fkey")),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(
            "batch_id",
            sa.BigInteger,
            sa.ForeignKey("batches.id", ondelete="CASCADE", name=op.f("export_shards_batch_id_fkey")),
            nullable=False,
        ),
        sa.Column("first_ordinal", sa.BigInteger, nullable=False),
        sa.Column("end_ordinal", sa.BigInteger, nullable=False, comment="of the row after the last one"),
        sa.Column(
            "generation",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("0"),
            comment="raised when an image of the shard may have changed after it was written",
        ),
        sa.Column("written_generation", sa.BigInteger, comment="what the files hold; null: never written"),
        sa.Column(
            "version",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="of the files, from 1 on",
        ),
        _flag("is_sealed", comment="none of its jobs was unfinished when it was written"),
        _json("files", "'[]'"),
        _json("pending", comment="files that are being put in place of `files`"),
        sa.Column("images", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        _json("counts", "'{}'", comment="jobs by state"),
        sa.Column("cursor", sa.Text, comment="of the feed: every image before it was considered"),
        sa.Column("written_at", moment),
        sa.Column("lease", sa.Uuid),
        sa.Column("lease_until", moment),
        sa.CheckConstraint(
            "end_ordinal > first_ordinal AND first_ordinal >= 0", name=op.f("export_shards_end_ordinal_check")
        ),
        sa.CheckConstraint(
            "(lease IS NULL) = (lease_until IS NULL)", name=op.f("export_shards_lease_until_check")
        ),
    )
    op.create_index("export_shards_batch_id_idx", "export_shards", ["batch_id", "first_ordinal"])


def downgrade() -> None:
    op.drop_table("export_shards")
    op.drop_table("exports")
