"""Groups of images whose perceptual hashes are near each other."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.images.insert_and_public_columns import URI
from jobs.job_dataclasses import BatchId

if TYPE_CHECKING:
    import numpy as np

_PAGE = 50_000

HASH = "CAST(CAST('x' || phash AS bit(64)) AS bigint)"
"""SQL of an image row's perceptual hash as a number; of its 64 bits, the first is the sign."""

_HASHES = text(f"""
    SELECT id, batch_id, ordinal, "index" AS place, {HASH} AS hash FROM images
    WHERE batch_id = ANY (CAST(:batches AS bigint[])) AND phash IS NOT NULL
      AND (batch_id, ordinal, "index") > (:batch_id, :ordinal, :place)
    ORDER BY batch_id, ordinal, "index" LIMIT :limit
""")

_WITHOUT = text(
    "SELECT count(*) AS n FROM images WHERE batch_id = ANY (CAST(:batches AS bigint[])) AND phash IS NULL"
)

_MEMBERS = text(f"""
    SELECT i.id AS image_id, b.name AS batch, i.ordinal, i."index", i.row_id, i.key, i.phash, {URI} AS uri
    FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS wanted (id, place) JOIN images i USING (id)
    JOIN batches b ON b.id = i.batch_id ORDER BY place
""")

Group = list[dict[str, Any]]


class NearDuplicates:
    """The images of some batches, grouped by their perceptual hashes.

    The order of images is that of batches and of their manifests. The first image of a group is its original; the
    others differ from it in at most `distance` of 64 bits. `images` have been compared, `without_hash` have no hash.
    """

    def __init__(self, engine: Engine, batches: Sequence[BatchId], distance: int) -> None:
        import numpy as np  # noqa: PLC0415 - takes a tenth of a second to import; other commands don't need it

        from jobs.images.hamming_search import first_of_group  # noqa: PLC0415

        self._engine = engine
        ids, hashes = _hashes(engine, batches)
        self.images = len(ids)
        self.without_hash: int = run(engine, _WITHOUT, {"batches": list(batches)})[0].n
        self._ids, firsts = ids, first_of_group(hashes, distance)
        is_duplicate = firsts != np.arange(len(firsts))
        self.duplicates = int(is_duplicate.sum())
        self._members = np.flatnonzero(np.isin(firsts, firsts[is_duplicate]))
        self._members = self._members[np.argsort(firsts[self._members], kind="stable")]
        self._group = firsts[self._members]

    def groups(self) -> Iterator[Group]:
        """Yield the groups of two images or more: each the image's number, batch, place, file, hash and distance."""
        import numpy as np  # noqa: PLC0415

        starts = np.flatnonzero(np.diff(self._group, prepend=-1)).tolist()
        for begin, end in pairwise([*starts, len(self._group)]):
            ids = self._ids[self._members[begin:end]].tolist()
            found = [row._asdict() for row in run(self._engine, _MEMBERS, {"ids": ids})]
            if len(found) > 1:  # images may have been retracted meanwhile
                yield [
                    member | {"distance": _differing(found[0]["phash"], member["phash"])} for member in found
                ]


def _hashes(
    engine: Engine, batches: Sequence[BatchId]
) -> "tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.uint64]]]":
    """Return the ids and hashes of all images that have one."""
    import numpy as np  # noqa: PLC0415

    ids, hashes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    after = {"batch_id": 0, "ordinal": -1, "place": 0}
    while rows := run(engine, _HASHES, {"batches": list(batches), "limit": _PAGE, **after}):
        ids.append(np.array([row.id for row in rows], np.int64))
        hashes.append(np.array([row.hash for row in rows], np.int64))
        after = {"batch_id": rows[-1].batch_id, "ordinal": rows[-1].ordinal, "place": rows[-1].place}
    return np.concatenate(ids), np.concatenate(hashes).view(np.uint64)


def _differing(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()
