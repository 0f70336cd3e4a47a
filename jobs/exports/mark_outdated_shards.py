"""Marks shards of exports as outdated; every statement that changes jobs or image rows of an export does so."""

from sqlalchemy import Connection, text


def outdating(affected: str = "affected") -> str:
    """Return the CTE `outdated`, which marks the export shards of the rows of the CTE `affected`.

    Those have the columns `batch_id` and `ordinal`. For statements that queue ended jobs again, add jobs to rows that
    were there, or delete or change image rows. Shards are locked in order; one that is being written is written again.
    """
    return f"""
    outdated AS (
        UPDATE export_shards SET generation = generation + 1 FROM (
            SELECT export_id, number FROM export_shards WHERE (export_id, batch_id, first_ordinal) IN (
                SELECT export_id, changed.batch_id, ordinal / shard_rows * shard_rows
                FROM {affected} AS changed JOIN (
                    SELECT DISTINCT export_id, batch_id, shard_rows
                    FROM export_shards JOIN exports ON exports.id = export_id
                    WHERE batch_id IN (SELECT batch_id FROM {affected})) AS held USING (batch_id))
            ORDER BY export_id, number FOR NO KEY UPDATE) AS found
        WHERE export_shards.export_id = found.export_id AND export_shards.number = found.number
    )"""


_MARK = text(
    "UPDATE export_shards SET generation = generation + 1 WHERE export_id = :export AND number = :number"
)


def mark_shard(connection: Connection, export: int, number: int) -> None:
    """Mark one shard of one export, whose files aren't as they were written."""
    connection.execute(_MARK, {"export": export, "number": number})
