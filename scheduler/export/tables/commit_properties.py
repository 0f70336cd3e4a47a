"""What commits to Iceberg tables and Lance datasets tell of themselves, and when they are tried again."""

import random
from collections.abc import Iterator, Mapping

from scheduler.export.tables.export_table import ShardCommit

EXPORT, SHARD, VERSION = "nightmill.export", "nightmill.shard", "nightmill.version"
CURSOR, FILES = "nightmill.cursor", "nightmill.files"

ALL = "all"
"""In place of a shard's number: the files of all shards, in a table that was made anew."""

TRIES = 40
"""Commits of others that one commit yields to."""


def of_shard(export: int, shard: ShardCommit) -> dict[str, str]:
    """Return what the commit of a shard tells."""
    return {
        EXPORT: str(export),
        SHARD: str(shard.number),
        VERSION: str(shard.version),
        CURSOR: shard.cursor,
        FILES: ",".join(shard.files),
    }


def of_all_shards(export: int) -> dict[str, str]:
    """Return what the commit tells that makes a table anew."""
    return {EXPORT: str(export), SHARD: ALL}


def files_told(properties: Mapping[str, str]) -> list[str]:
    """Return the names of the files that the commit of a shard put into the table."""
    return [name for name in properties.get(FILES, "").split(",") if name]


def retry_delays() -> Iterator[float]:
    """Yield how long to wait before each further try after a conflict, in seconds: longer and longer, up to 2 s."""
    for number in range(TRIES):
        yield random.uniform(0.5, 1) * min(0.05 * 1.5**number, 2.0)  # noqa: S311 - no secret
