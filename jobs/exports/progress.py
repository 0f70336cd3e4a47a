"""How far an export is: counts over its shards, without their files, of which there may be very many."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.exports.records import IS_OUTDATED

_PROGRESS = text(f"""
    SELECT count(*) AS shards, count(*) FILTER (WHERE NOT {IS_OUTDATED}) AS sealed,
        CAST(coalesce(sum(images), 0) AS bigint) AS images
    FROM export_shards s WHERE export_id = :export
""")


@dataclass(frozen=True)
class Progress:
    """The shards of an export, those of them that are sealed and up to date, and the images in all files."""

    shards: int
    sealed: int
    images: int

    @property
    def is_complete(self) -> bool:
        """Whether every shard is sealed and up to date."""
        return self.sealed == self.shards


def progress_of(engine: Engine, export: int) -> Progress:
    """Count the shards of an export."""
    (row,) = run(engine, _PROGRESS, {"export": export})
    return Progress(**row._mapping)
