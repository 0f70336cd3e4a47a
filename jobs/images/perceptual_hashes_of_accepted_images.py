"""The perceptual hashes of a batch's accepted images, in memory."""

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, text

from jobs.images.near_duplicates import HASH
from jobs.job_dataclasses import BatchId

_COUNT = text("SELECT count(*) FROM image_acceptance WHERE batch_id = :batch AND is_accepted AND id <= :last")
_NEW = text(f"""
    SELECT a.id, image_id, {HASH} AS hash
    FROM image_acceptance a JOIN images i ON i.id = image_id
    WHERE a.batch_id = :batch AND is_accepted AND a.id > :last ORDER BY a.id
""")
_ROOM = 1024


class AcceptedHashes:
    """Finds accepted images that another is near; keeps up with what others accept, and with deleted images."""

    def __init__(self, batch: BatchId) -> None:
        self._batch = batch
        self._last, self._seen, self._used = 0, 0, 0
        self._hashes: npt.NDArray[np.uint64] = np.empty(_ROOM, np.uint64)
        self._images: npt.NDArray[np.int64] = np.empty(_ROOM, np.int64)

    def refresh(self, connection: Connection) -> None:
        """Read what was accepted since the last call; all again if accepted images were deleted since."""
        place = {"batch": self._batch, "last": self._last}
        if connection.execute(_COUNT, place).scalar_one() != self._seen:
            self._last, self._seen, self._used = 0, 0, 0
        for row in connection.execute(_NEW, {"batch": self._batch, "last": self._last}):
            self._last, self._seen = row.id, self._seen + 1
            if row.hash is not None:
                self._add(row.image_id, row.hash)

    def first_near(self, hash_: int, distance: int) -> int | None:
        """Return the first accepted image whose hash differs in at most `distance` bits; None if there is none."""
        differing = np.bitwise_count(self._hashes[: self._used] ^ np.int64(hash_).view(np.uint64))
        found = np.flatnonzero(differing <= distance)
        return int(self._images[found[0]]) if len(found) else None

    def _add(self, image: int, hash_: int) -> None:
        if self._used == len(self._hashes):
            room = 2 * self._used
            self._hashes, self._images = np.resize(self._hashes, room), np.resize(self._images, room)
        self._hashes[self._used], self._images[self._used] = np.int64(hash_).view(np.uint64), image
        self._used += 1
