"""Apply another safety policy to a batch by the scores that its jobs have: without rendering, without image files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection, Engine, text

from jobs.batches.actions import reopen, why_archived
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.retract_images import ImageRow, delete_image_files
from jobs.batches.status import BatchStatus
from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId, JobId
from jobs.outputs.delete_contact_sheet import delete_contact_sheet
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.change_policy import change_policy
from jobs.policy.safety_thresholds import SafetyThresholds, reason_of
from jobs.policy.stored_policy import policy_of, safety_of, sql_columns
from jobs.safety_reevaluation.block_and_unblock_jobs import (
    BlockedImage,
    BlockedJob,
    JudgedBatch,
    OvertakenError,
    block_images,
    free_blocked,
    hold,
    note_claims,
    release_claims,
)
from jobs.safety_reevaluation.move_quarantined_files import quarantine_images, restore_quarantined
from jobs.safety_reevaluation.select_changed_verdicts import (
    Counts,
    JudgedJob,
    blocked_images,
    count_blocked_images,
    count_freed_jobs,
    freed_jobs,
)
from jobs.states import WITHHOLDING, JobState, SafetyAction, SafetyStrength
from jobs.storage.base import ObjectStore

EXAMPLES = 5
_POLICY = text(f"SELECT {sql_columns()} FROM batches WHERE id = :batch")
# Workers that complete jobs take a share of this lock, and so wait for the new policy (`jobs.queue.transitions`).
_LOCK = text("SELECT id FROM batches WHERE id = :batch FOR UPDATE")


@dataclass(frozen=True)
class SafetyPolicy:
    """The part of a batch's policy by which images are judged."""

    action: SafetyAction
    strength: SafetyStrength = SafetyStrength.STANDARD
    thresholds: str | None = None
    checkers: str | None = None

    @classmethod
    def of(cls, policy: BatchPolicy) -> "SafetyPolicy":
        """Return that part of a policy."""
        return cls(policy.safety, policy.safety_strength, policy.safety_thresholds, policy.safety_checkers)

    @property
    def adjustments(self) -> SafetyThresholds:
        """What is added to scores, and the thresholds of further checkers."""
        return SafetyThresholds.of(self.strength, self.thresholds, self.checkers)

    def recorded(self) -> dict[str, str]:
        """Return what image rows note of it."""
        return self._as_policy().recorded()

    def text(self) -> str:
        """Return it as `safety_of` returns that of a batch."""
        return safety_of(self._as_policy())

    def _as_policy(self) -> BatchPolicy:
        return BatchPolicy.model_validate(self.keys())

    def keys(self) -> dict[str, str | None]:
        """Return the values as keys of the batch policy."""
        return {
            "safety": self.action,
            "safety_strength": self.strength,
            "safety_thresholds": self.thresholds,
            "safety_checkers": self.checkers,
        }


@dataclass(frozen=True)
class Judgement:
    """What a policy changes: image rows that it blocks and blocked jobs that it frees, with examples of both."""

    before: SafetyPolicy
    after: SafetyPolicy
    images: Counts
    blocked_jobs: Counts
    examples_blocked: list[JudgedJob]
    examples_freed: list[JudgedJob]
    concept_names: Sequence[str] = ()
    """Names of the safety checker's first concepts, for the reasons of blocked jobs."""


@dataclass
class Applied:
    """What was changed so far.

    Images that were blocked, and their files: deleted or moved into quarantine; jobs that were freed: restored from
    quarantine or queued again; claims that were taken from workers; and whether the batch was changed by somebody else
    before all was done.
    """

    blocked: int = 0
    deleted_files: int = 0
    quarantined_files: int = 0
    restored: int = 0
    queued: int = 0
    released: int = 0
    is_overtaken: bool = False


def safety_policy(engine: Engine, batch: BatchStatus) -> SafetyPolicy:
    """Return the safety policy that the batch has now. Raises UsageError if only a later version knows all of it."""
    policy, unknown = policy_of(run(engine, _POLICY, {"batch": batch.id})[0]._mapping)
    if wrong := [name for name in unknown if name.startswith("safety")]:
        raise UsageError(f"only a later version of nightmill knows {', '.join(wrong)} of batch {batch.name}")
    return SafetyPolicy.of(policy)


def check_can_judge(batch: BatchStatus, policy: SafetyPolicy) -> None:
    """Raise UsageError for an archived batch, and where the policy keeps what it flags in the dataset."""
    if batch.archived_at is not None:
        raise UsageError(why_archived(batch.name))
    if policy.action not in WITHHOLDING:
        raise UsageError(
            f"batch {batch.name} has safety={policy.action}, under which flagged images stay in the dataset: "
            "--safety block or --safety quarantine judges them as if they were not to"
        )


def judge(
    engine: Engine,
    batch: BatchId,
    before: SafetyPolicy,
    after: SafetyPolicy,
    concept_names: Sequence[str] = (),
) -> Judgement:
    """Return what the policy would change, changing nothing."""
    new, old = after.adjustments, before.adjustments
    images, jobs = count_blocked_images(engine, batch, new), count_freed_jobs(engine, batch, new, old)
    return Judgement(
        before,
        after,
        images,
        jobs,
        _first(blocked_images(engine, batch, new, EXAMPLES)) if images.changed else [],
        _first(freed_jobs(engine, batch, new, old, EXAMPLES)) if jobs.changed else [],
        concept_names,
    )


def apply(
    engine: Engine,
    store: ObjectStore,
    batch: BatchStatus,
    judgement: Judgement,
    on_jobs: Callable[[int], object] = lambda _: None,
) -> Applied:
    """Give the batch the policy, block the images that it flags and queue the blocked jobs that it doesn't.

    An interrupted call can be repeated, and a second one changes nothing. It ends, having done no more, where the batch
    gets yet another policy meanwhile, is moved or archived. `on_jobs` is called with the number of jobs changed
    so far. What is being rendered under the policy of before is taken from its workers, and rendered
    again; so it is if the call that changed the policy was interrupted before.
    """
    if judgement.before != judgement.after:
        transact(engine, lambda connection: _change(connection, batch.id, judgement.after))
    change = _PolicyChange(engine, store, batch, judgement)
    change.done.released = release_claims(engine, batch.id)
    try:
        change.apply(on_jobs)
    except OvertakenError:
        change.done.is_overtaken = True
    reopen(engine, batch.id)
    record_batch_events(engine)
    return change.done


def _change(connection: Connection, batch: BatchId, policy: SafetyPolicy) -> None:
    connection.execute(_LOCK, {"batch": batch})
    change_policy(connection, batch, policy.keys())
    note_claims(connection, batch)


@dataclass(frozen=True)
class _PolicyChange:
    """What a judgement changes in a batch, and what of it is done."""

    engine: Engine
    store: ObjectStore
    batch: BatchStatus
    judgement: Judgement
    done: Applied = field(default_factory=Applied)

    @property
    def judged(self) -> JudgedBatch:
        """The batch as it is judged."""
        return JudgedBatch(self.batch.id, self.judgement.after.text(), self.batch.output, self.batch.folder)

    def apply(self, on_jobs: Callable[[int], object]) -> None:
        """Block and free page by page. Raises OvertakenError once the batch isn't as it was judged."""
        done, after, before = self.done, self.judgement.after, self.judgement.before
        for page in blocked_images(self.engine, self.batch.id, after.adjustments):
            delete_contact_sheet(
                self.store, self.batch.folder
            )  # first: a call that is repeated has nothing to block
            if after.action == SafetyAction.QUARANTINE:
                self._quarantine(page)
            else:
                self._block(page)
            on_jobs(done.blocked)
        for page in freed_jobs(self.engine, self.batch.id, after.adjustments, before.adjustments):
            self._free(page)
            on_jobs(done.blocked + done.restored + done.queued)

    def _block(self, page: list[JudgedJob]) -> None:
        """Rows go first: a file that an interrupted call leaves is one that no row names, which a sweep deletes."""
        rows = [
            ImageRow(*_row(each), each.job, each.ordinal, each.index, each.sidecar_sha256) for each in page
        ]

        def block(connection: Connection) -> set[JobId]:
            hold(connection, self.judged)
            return block_images(connection, self.batch.id, self._with_reasons(page))

        blocked = transact(self.engine, block)
        own = [row for row in rows if row.job in blocked]
        self.done.blocked += len(blocked)
        self.done.deleted_files += delete_image_files(
            self.engine, self.store, self.batch, own, JobState.BLOCKED
        )

    def _quarantine(self, page: list[JudgedJob]) -> None:
        flagged = self._with_reasons(page)
        blocked, files = quarantine_images(self.engine, self.store, self.judged, flagged)
        self.done.blocked += blocked
        self.done.quarantined_files += files

    def _free(self, page: list[JudgedJob]) -> None:
        """Restore what lies in quarantine; what doesn't, or can't be used as it lies there, is rendered again."""
        quarantined = [_blocked_job(each) for each in page if each.key is not None]
        recorded = self.judgement.after.recorded()
        self.done.restored += restore_quarantined(self.engine, self.store, self.judged, quarantined, recorded)

        def free(connection: Connection) -> int:
            hold(connection, self.judged)
            return free_blocked(connection, self.batch.id, [_blocked_job(each) for each in page])

        self.done.queued += transact(self.engine, free)

    def _with_reasons(self, page: list[JudgedJob]) -> list[BlockedImage]:
        names = self.judgement.concept_names
        return [BlockedImage(*_row(each), reason_of(each.above, names)) for each in page]


def _blocked_job(judged: JudgedJob) -> BlockedJob:
    assert judged.blocked_at is not None
    return BlockedJob(judged.job, judged.blocked_at)


def _row(judged: JudgedJob) -> tuple[int, str]:
    """Return the id and the key of a judged image row."""
    assert judged.image is not None
    assert judged.key is not None
    return judged.image, judged.key


def _first(pages: Iterator[list[JudgedJob]]) -> list[JudgedJob]:
    return next(islice(pages, 1), [])
