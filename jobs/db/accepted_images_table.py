"""The table of which images count to their batch's target, for batches with the policy key `accept`."""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Table, text

from jobs.db.constraint_names_and_column_types import key, metadata, moment

image_acceptance = Table(
    "image_acceptance",
    metadata,
    key(),
    Column("image_id", BigInteger, ForeignKey("images.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("job_id", BigInteger, nullable=False, unique=True),
    Column("batch_id", BigInteger, nullable=False),
    Column("is_accepted", Boolean, nullable=False),
    Column("duplicate_of", BigInteger, comment="the accepted image that it is a near-duplicate of"),
    moment("judged_at", nullable=False, default="now()"),
    Index("image_acceptance_accepted_idx", "batch_id", "id", postgresql_where=text("is_accepted")),
    Index("image_acceptance_rejected_idx", "batch_id", "id", postgresql_where=text("NOT is_accepted")),
)
