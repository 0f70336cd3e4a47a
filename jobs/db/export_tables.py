"""The tables of exports: what was asked for, and the shards with the files that were written of each."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from jobs.db.constraint_names_and_column_types import key, metadata, moment

exports = Table(
    "exports",
    metadata,
    key(),
    Column(
        "installation", Uuid, nullable=False, comment="that writes it: a restored database is another one"
    ),
    Column("name", Text, nullable=False, comment="of the dataset"),
    Column(
        "output", Text, nullable=False, comment="store that holds the export: a folder or s3://bucket/prefix"
    ),
    Column("prefix", Text, nullable=False, comment="folder in the store: empty, or ends in a slash"),
    Column("format", Text, nullable=False),
    Column(
        "options", JSONB, nullable=False, server_default=text("'{}'"), comment="ExportOptions, not defaults"
    ),
    Column("shard_rows", Integer, nullable=False, comment="manifest rows of a shard"),
    Column(
        "is_live",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="schedulers write shards as soon as they can be sealed",
    ),
    moment("created_at", nullable=False, default="now()"),
    Column(
        "replaced",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="files of an earlier export at the place, name: SHA-256; deleted when this one is finished",
    ),
    Column(
        "files",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="of the export as a whole, such as its card",
    ),
    Column("finished", Text, comment="digest of the shards that `_SUCCESS` names"),
    moment("finished_at"),
    Column("is_complete", Boolean, nullable=False, server_default=text("false")),
    Column("error", Text, comment="why the last try to write a shard failed"),
    Column("lease", Uuid, comment="of who writes `_SUCCESS`"),
    moment("lease_until"),
    Column(
        "superseded",
        JSONB,
        nullable=False,
        server_default=text("'[]'"),
        comment="further files like those in `replaced`, of which there is one a name",
    ),
    Column(
        "timestamps_missing",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="sealed shards that were to have a time stamp when it was finished, and had none",
    ),
    Column(
        "columns",
        JSONB,
        comment="names of those of its files; null: not noted yet, or its format has a table, which takes more",
    ),
    CheckConstraint("shard_rows > 0", "shard_rows"),
    CheckConstraint("prefix = '' OR prefix LIKE '%/'", "prefix"),
    UniqueConstraint("output", "prefix"),
)

export_shards = Table(
    "export_shards",
    metadata,
    Column("export_id", BigInteger, ForeignKey("exports.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("batch_id", BigInteger, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("first_ordinal", BigInteger, nullable=False),
    Column("end_ordinal", BigInteger, nullable=False, comment="of the row after the last one"),
    Column(
        "generation",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="raised when an image of the shard may have changed after it was written",
    ),
    Column("written_generation", BigInteger, comment="what the files hold; null: never written"),
    Column("version", Integer, nullable=False, server_default=text("0"), comment="of the files, from 1 on"),
    Column(
        "is_sealed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="none of its jobs was unfinished when it was written",
    ),
    Column("files", JSONB, nullable=False, server_default=text("'[]'")),
    Column("pending", JSONB, comment="files that are being put in place of `files`"),
    Column("images", BigInteger, nullable=False, server_default=text("0")),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'"), comment="jobs by state"),
    Column("cursor", Text, comment="of the feed: every image before it was considered"),
    moment("written_at"),
    Column("lease", Uuid),
    moment("lease_until"),
    Column(
        "timestamp", JSONB, comment="RFC 3161, of the digests and names of `files`; `sha256` says of which"
    ),
    Column(
        "columns_version",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="the version that has the columns of the export; another one was written by a nightmill without these",
    ),
    CheckConstraint("end_ordinal > first_ordinal AND first_ordinal >= 0", "end_ordinal"),
    CheckConstraint("(lease IS NULL) = (lease_until IS NULL)", "lease_until"),
    Index("export_shards_batch_id_idx", "batch_id", "first_ordinal"),
)
