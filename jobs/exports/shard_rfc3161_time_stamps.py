"""Time stamps of shards as stored, and the text that each is made of: the digests and names of the shard's files."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.exports.records import File, ShardRecord

# Guarded by what was stamped: another writer may have published other files meanwhile.
_STORE = text("""
    UPDATE export_shards SET timestamp = CAST(:timestamp AS jsonb)
    WHERE export_id = :export AND number = :number AND version = :version RETURNING number
""")
_NOTE_MISSING = text("""
    UPDATE exports SET timestamps_missing = :missing WHERE id = :export AND timestamps_missing <> :missing RETURNING id
""")


@dataclass(frozen=True)
class TimeStamp:
    """A checked answer of a time-stamping authority.

    `sha256`: hex digest of what it is of. `time`: when the authority says that it was there. `authority`: the name in
    its certificate. `response`: the TimeStampResp in DER, as `openssl ts` reads it.
    """

    sha256: str
    time: datetime
    authority: str
    response: bytes

    def report(self) -> dict[str, str]:
        """Return what the table and `_SUCCESS` hold."""
        return {
            "sha256": self.sha256,
            "time": self.time.isoformat(),
            "authority": self.authority,
            "response": base64.b64encode(self.response).decode("ascii"),
        }


def stamped_text(files: Sequence[Mapping[str, Any]]) -> bytes:
    """Return what a shard's time stamp is of: a line for each file, sorted by name, as `sha256sum -c` reads it."""
    digests = {str(file["name"]): str(file["sha256"]) for file in files}
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(digests.items())).encode()


def stamped_digest(files: Sequence[File]) -> str:
    """Return the SHA-256 of `stamped_text` in hex."""
    return hashlib.sha256(stamped_text(files)).hexdigest()


def timestamp_of(shard: ShardRecord) -> Mapping[str, str] | None:
    """Return a shard's time stamp, as `TimeStamp.report` gives it; None if it has none, or one of other files."""
    found = shard.timestamp
    return found if found and found.get("sha256") == stamped_digest(shard.files) else None


def needs_timestamp(shard: ShardRecord) -> bool:
    """Whether a shard is sealed and up to date, has files, and no time stamp of them."""
    return shard.is_current and bool(shard.files) and timestamp_of(shard) is None


def store_timestamp(engine: Engine, export: int, shard: ShardRecord, stamp: TimeStamp) -> None:
    """Store the time stamp of a shard, unless it has another version by now."""
    values = {
        "export": export,
        "number": shard.number,
        "version": shard.version,
        "timestamp": json.dumps(stamp.report()),
    }
    run(engine, _STORE, values)


def note_missing(engine: Engine, export: int, missing: int) -> None:
    """Store how many sealed shards of an export wait for a time stamp; schedulers get it for those of live exports."""
    run(engine, _NOTE_MISSING, {"export": export, "missing": missing})
