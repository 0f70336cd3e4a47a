"""Finds the copies of images: rows whose files were copied from them, or from what they themselves were copied from."""

from collections.abc import Sequence

from sqlalchemy import Engine, text

from jobs.db.engine import run

# Also rows of the same inputs and file that don't name one another: the row that both were copied from is gone.
_COPIES = text("""
    WITH given AS (
        SELECT id, coalesce(reused_from, id) AS root, inputs_sha256, sha256 FROM images
        WHERE id = ANY (CAST(:ids AS bigint[]))
    ), alike AS (
        SELECT id FROM images WHERE reused_from IN (SELECT root FROM given)
        UNION SELECT id FROM images WHERE id IN (SELECT root FROM given)
        UNION SELECT other.id FROM given JOIN images AS other USING (inputs_sha256, sha256)
    )
    SELECT id FROM alike WHERE id NOT IN (SELECT id FROM given) ORDER BY id
""")


def copies_of(engine: Engine, images: Sequence[int]) -> list[int]:
    """Return the image ids of all copies of these images in any batch, without these."""
    return [row.id for row in run(engine, _COPIES, {"ids": list(images)})] if images else []
