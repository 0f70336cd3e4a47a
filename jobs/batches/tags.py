"""Tags of batches: labels by which people find them again."""

import re
from collections.abc import Collection

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId

_FORM = re.compile(r"[a-z0-9][a-z0-9._:=/-]{0,99}")
_MOST = 100

# One statement, so that of two at once neither undoes the other.
_CHANGE = text("""
    UPDATE batches SET tags = ARRAY(
        SELECT DISTINCT tag FROM unnest(tags || CAST(:added AS text[])) AS t (tag)
        WHERE tag <> ALL (CAST(:removed AS text[])) ORDER BY tag)
    WHERE id = :batch RETURNING tags
""")


def change_tags(
    engine: Engine, batch: BatchId, added: Collection[str], removed: Collection[str] = ()
) -> list[str]:
    """Add tags to a batch and remove others; returns those that it has then, sorted.

    Raises UsageError for a tag that is not a label of lower-case letters, digits and `._:=/-`.
    """
    for tag in (*added, *removed):
        check_tag(tag)
    if len(added) > _MOST:
        raise UsageError(f"{len(added)} tags at once: {_MOST} at most")
    rows = run(engine, _CHANGE, {"batch": batch, "added": list(added), "removed": list(removed)})
    return list(rows[0].tags)


def check_tag(tag: str) -> str:
    """Return the tag; raise UsageError if it can't be one."""
    if not _FORM.fullmatch(tag):
        raise UsageError(
            f"{tag!r} can't be a tag: lower-case letters, digits and . _ : = / -, a letter or digit first, at most 100"
        )
    return tag
