"""The table of images that were flagged and are kept in quarantine: files beside the dataset, without an image row."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from jobs.db.constraint_names_and_column_types import metadata, moment

# No foreign key to jobs: the row outlives its job, whose batch may be archived before its files are deleted.
quarantined_images = Table(
    "quarantined_images",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", BigInteger, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text, nullable=False, comment="the file within the output"),
    moment("blocked_at", nullable=False),
    Column("image", JSONB, nullable=False, comment="columns of the image row that it gets when it is freed"),
    Index("quarantined_images_batch_id_idx", "batch_id"),
)
"""A row is in force while its job is blocked since `blocked_at`, and out of date once the job was queued again."""
