"""Acceptance: judges by the policy key `accept` which images count to their batch's target.

An image is judged once, in the order of image ids; anew only if a later manifest changes its row. `duplicate` in a
condition says whether it is a near-duplicate of an image that was accepted before; it is missing for images without a
perceptual hash. An image for which the condition is neither true nor false isn't accepted.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Row, text

from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.images.insert_and_public_columns import URI
from jobs.images.near_duplicates import HASH
from jobs.images.where_expression import Condition, compile_condition
from jobs.job_dataclasses import BatchId
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.stored_policy import sql_value
from jobs.rate_limited_log import RateLimitedLog
from jobs.states import OPEN, sql_list

if TYPE_CHECKING:
    from jobs.images.perceptual_hashes_of_accepted_images import AcceptedHashes

log = logging.getLogger(__name__)

PAGE = 500
_LOCK = 0x6E6D6163  # first key of the advisory locks under which batches are judged, one at a time
_SLOWEST = timedelta(minutes=10)
"""How much later than its beginning a transaction that stores images ends at most, while a batch is rendered."""

_BATCHES = text(f"""
    SELECT batches.id, policy ->> 'accept' AS accept, {sql_value("duplicate_distance")} AS distance,
        (SELECT max(created_at) FROM images WHERE batch_id = batches.id) AS latest,
        coalesce((SELECT sum(delta) FROM job_counts WHERE batch_id = batches.id AND state = 'done'), 0) AS done,
        coalesce((SELECT sum(delta) FROM job_counts
                  WHERE batch_id = batches.id AND state IN ({sql_list(OPEN)})), 0) AS open
    FROM batches WHERE policy ? 'accept' AND archived_at IS NULL AND CASE
        WHEN CAST(:batch AS bigint) IS NULL THEN EXISTS (
            SELECT FROM lanes WHERE batch_id = batches.id
              AND (lanes.ended_at IS NULL OR lanes.ended_at > now() - interval '1 hour'))
        ELSE batches.id = :batch END
""")

_PAGE = """
    SELECT i.id, i.job_id, {hash} AS hash, (
        SELECT array_agg({condition} IS TRUE ORDER BY place)
        FROM (VALUES (0, false), (1, true), (2, NULL)) AS judged (place, duplicate)) AS verdicts
    FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE i.batch_id = :batch AND NOT EXISTS (SELECT FROM image_acceptance WHERE image_id = i.id)
      AND {since} ORDER BY i.id + 0 LIMIT :limit FOR KEY SHARE OF i
"""  # + 0: not by the primary key, in which other batches' images lie between
_NAMES_DUPLICATE = re.compile(r"\bduplicate\b")
_UNKNOWN = 2  # the verdict without a hash; the others are those of an original and a duplicate

_TRY = text("SELECT pg_try_advisory_xact_lock(:key, CAST(:batch AS int))")
_WAIT = text("SELECT true FROM (SELECT pg_advisory_xact_lock(:key, CAST(:batch AS int))) AS taken")

_JUDGED = text("""
    INSERT INTO image_acceptance (image_id, job_id, batch_id, is_accepted, duplicate_of)
    SELECT image, job, :batch, is_accepted, duplicate_of
    FROM unnest(CAST(:images AS bigint[]), CAST(:jobs AS bigint[]), CAST(:accepted AS bool[]),
        CAST(:duplicates AS bigint[])) AS g (image, job, is_accepted, duplicate_of) ORDER BY image
""")

_REJECTED = text(f"""
    SELECT a.image_id, i.ordinal, i."index", i.row_id, {URI} AS uri, a.duplicate_of
    FROM image_acceptance a JOIN images i ON i.id = a.image_id JOIN batches b ON b.id = a.batch_id
    WHERE a.batch_id = :batch AND NOT a.is_accepted ORDER BY a.id LIMIT :limit
""")


def compile_accept(accept: str) -> Condition:
    """Compile a condition, in which `duplicate` is a column of the table `judged`. Raises UsageError."""
    return compile_condition(accept, {"duplicate": "judged.duplicate"})


def check_accept(policy: BatchPolicy) -> None:
    """Raise UsageError if the policy's condition is wrong."""
    if policy.accept is not None:
        try:
            compile_accept(policy.accept)
        except UsageError as error:
            raise UsageError(f"--set accept: {error}") from None


def rejected(engine: Engine, batch: BatchId, limit: int) -> list[dict[str, Any]]:
    """Return images that weren't accepted, and of near-duplicates the image that was accepted before."""
    return [dict(row._mapping) for row in run(engine, _REJECTED, {"batch": batch, "limit": limit})]


def judge_all(engine: Engine, batch: BatchId) -> int:
    """Judge all images of a batch that weren't judged yet; returns how many."""
    judge, total = AcceptanceJudge(engine, waits=True), 0
    while judged := judge.judge(batch):
        total += judged
    return total


@dataclass
class _Progress:
    """What a judge knows of a batch; `settled` is how it stood when there was nothing left to judge."""

    hashes: "AcceptedHashes"
    since: datetime | None = None
    settled: tuple[object, ...] | None = None


class AcceptanceJudge:
    """Judges images of all batches as they come; several may work at once, one at a batch.

    With `waits`, it waits for another one to be done with a batch, which is else left to that one.
    """

    def __init__(self, engine: Engine, *, waits: bool = False) -> None:
        self._take = _WAIT if waits else _TRY
        self._engine = engine
        self._known: dict[BatchId, _Progress] = {}
        self._repeated = RateLimitedLog(log)

    def judge(self, batch: BatchId | None = None) -> int:
        """Judge the next images of a batch, or of each batch, as far as that is quick; returns how many."""
        rows = run(self._engine, _BATCHES, {"batch": batch})
        self._known = {row.id: self._known.get(row.id) or _progress(row.id) for row in rows}
        return sum(self._judge_batch(row) for row in rows)

    def _judge_batch(self, row: Row[Any]) -> int:
        progress, now = self._known[row.id], (row.latest, row.done, row.open)
        if row.latest is None or progress.settled == now:
            return 0
        try:
            condition = compile_accept(row.accept)
        except UsageError as error:
            self._repeated.tell(row.id, f"batch {row.id}: its condition can't be read: {error}")
            return 0
        judged = self._page(row, condition, progress)
        if not judged and not row.open and progress.since is not None:
            progress.since = None  # look at all images once more
            judged = self._page(row, condition, progress)
        if judged == 0:
            progress.settled = now
        if judged is None or judged < PAGE:
            progress.since = row.latest - _SLOWEST
        return judged or 0

    def _page(self, row: Row[Any], condition: Condition, progress: _Progress) -> int | None:
        """Judge up to a page of images; None if somebody else is at it."""
        since = "true" if progress.since is None else "i.created_at >= :since"
        query = text(_PAGE.format(hash=HASH, condition=condition.sql, since=since))
        values = {"batch": row.id, "since": progress.since, "limit": PAGE, **condition.values}

        def work(connection: Connection) -> int | None:
            if not connection.execute(self._take, {"key": _LOCK, "batch": row.id}).scalar_one():
                return None
            images = connection.execute(query, values).all()
            if images:
                hashes = progress.hashes if _NAMES_DUPLICATE.search(row.accept) else None
                if hashes is not None:
                    hashes.refresh(connection)
                connection.execute(_JUDGED, {"batch": row.id, **_verdicts(images, row.distance, hashes)})
            return len(images)

        return transact(self._engine, work)


def _progress(batch: BatchId) -> _Progress:
    from jobs.images.perceptual_hashes_of_accepted_images import AcceptedHashes  # noqa: PLC0415 - numpy takes a tenth of a second

    return _Progress(AcceptedHashes(batch))


def _verdicts(
    images: Sequence[Row[Any]], distance: int, hashes: "AcceptedHashes | None"
) -> dict[str, list[Any]]:
    """Return what the table is to hold of each image; those that are accepted here count for the ones after them.

    `hashes` is None for a condition that doesn't ask for duplicates, of which none are sought then.
    """
    accepted, duplicates, new = list[bool](), list[int | None](), list[tuple[int, int]]()
    for image in images:
        near = (
            None if hashes is None or image.hash is None else _first_near(image.hash, distance, hashes, new)
        )
        duplicates.append(near)
        accepted.append(image.verdicts[_UNKNOWN if image.hash is None else near is not None])
        if accepted[-1] and image.hash is not None:
            new.append((image.id, image.hash))
    return {
        "images": [image.id for image in images],
        "jobs": [image.job_id for image in images],
        "accepted": accepted,
        "duplicates": duplicates,
    }


def _first_near(
    hash_: int, distance: int, hashes: "AcceptedHashes", new: Sequence[tuple[int, int]]
) -> int | None:
    found = hashes.first_near(hash_, distance)
    if found is not None:
        return found
    mask = 0xFFFFFFFFFFFFFFFF
    return next((image for image, other in new if ((hash_ ^ other) & mask).bit_count() <= distance), None)
