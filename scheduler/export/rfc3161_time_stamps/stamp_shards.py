"""Gets time stamps for the shards of an export that are sealed and have none."""

from collections.abc import Callable, Sequence

from sqlalchemy import Engine

from jobs.exports import records
from jobs.exports.records import ShardRecord
from jobs.exports.shard_rfc3161_time_stamps import (
    needs_timestamp,
    note_missing,
    stamped_digest,
    store_timestamp,
)
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.export.rfc3161_time_stamps.errors import TimeStampError


class ShardStamper:
    """Stamps shards of an export as long as the authority answers. `error` is why the last one has no time stamp.

    No failure keeps a shard from being sealed: a time stamp of tomorrow proves nearly as much, and nobody waits for it.
    """

    def __init__(self, engine: Engine, authority: TimeStampAuthority, on_step: Callable[[], object]) -> None:
        """`on_step` is called between two requests; what it raises ends the work."""
        self._engine, self._authority, self._on_step = engine, authority, on_step
        self.error: str | None = None

    def stamp(self, export: int, number: int | None = None) -> None:
        """Stamp the sealed shards of an export that have no time stamp, or the one of a number."""
        for shard in records.shards_of(self._engine, export, number):
            if needs_timestamp(shard) and not self._stamped(export, shard):
                return

    def note_missing(self, export: int, shards: Sequence[ShardRecord]) -> None:
        """Store how many of an export's shards are sealed and have no time stamp."""
        note_missing(self._engine, export, sum(map(needs_timestamp, shards)))

    def _stamped(self, export: int, shard: ShardRecord) -> bool:
        self._on_step()
        if not self._authority.is_ready:
            self.error = self._authority.last_error
            return False
        try:
            stamp = self._authority.stamp(stamped_digest(shard.files))
        except TimeStampError as error:
            self.error = str(error)
            return False
        store_timestamp(self._engine, export, shard, stamp)
        self.error = None
        return True
