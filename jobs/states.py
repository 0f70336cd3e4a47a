"""Enumerations: states of jobs, batches and workers, outcomes and errors of attempts, and policy values.

queued ──claim──▶ running ──complete──▶ done
  ▲                │  │ └──block──▶ blocked      (safety)
  │                │  └──fail, attempts used up──▶ failed
  └─retry, release,┘
    lease ran out        queued | running ──cancel──▶ cancelled
  ◀──────── retry by hand ──── failed | blocked | cancelled | retracted ◀──retract── done ──judge──▶ blocked
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

EVERYBODY = "*"
"""Stands for all tenants together when a limit is set; no tenant can have this name."""

NO_LIMIT = -1
"""Given in place of a limit: takes back the one that is set."""

DEFAULT_POOL = "default"
"""The pool of workers that were started without `--pool`; it serves all models unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class StateRules:
    """What holds for the jobs of a state; the defaults suit one in which a job has ended."""

    is_open: bool = False
    """Whether the job is still to be rendered: it keeps its lane and its batch from having ended."""
    is_retryable: bool = False
    """Whether `retry` queues the job again without being asked for this state."""
    has_error: bool = False
    """Whether the job has ended without an image for a reason, which `failures` tells; a target makes up for it."""


class JobState(StrEnum):
    """State of a job: the table of states, from which sets of them, counts and the documentation are derived.

    Every change of it is one statement in `jobs.queue.transitions`, in `jobs.queue.update_jobs_from_manifest` if the
    row changes, or in `jobs.safety_reevaluation.block_and_unblock_jobs` if the safety policy does.
    """

    rules: StateRules
    doc: str

    def __new__(cls, value: str, rules: StateRules, doc: str) -> Self:
        member = str.__new__(cls, value)
        member._value_, member.rules, member.doc = value, rules, doc
        return member

    QUEUED = "queued", StateRules(is_open=True), "waits for a worker, or for its retry delay to pass"
    RUNNING = "running", StateRules(is_open=True), "is claimed by a worker that renews its lease"
    DONE = (
        "done",
        StateRules(),
        "has its image stored and an image row; only a retraction or another safety policy takes that back",
    )
    FAILED = (
        "failed",
        StateRules(is_retryable=True, has_error=True),
        "has used up its attempts, or met an error that another attempt can't mend",
    )
    BLOCKED = (
        "blocked",
        StateRules(is_retryable=True, has_error=True),
        "was withheld by the prompt filter or the safety checker",
    )
    CANCELLED = "cancelled", StateRules(is_retryable=True), "was cancelled before it was done"
    RETRACTED = (
        "retracted",
        StateRules(),
        "had an image that was taken back; `retry --retracted` renders it again",
    )


OPEN = tuple(state for state in JobState if state.rules.is_open)
FINISHED = tuple(state for state in JobState if not state.rules.is_open)
RETRYABLE = tuple(state for state in JobState if state.rules.is_retryable)
WITH_ERROR = tuple(state for state in JobState if state.rules.has_error)


def sql_list(states: Iterable[JobState]) -> str:
    """Return states as a list for SQL's IN."""
    return ", ".join(f"'{state}'" for state in states)


class EventKind(StrEnum):
    """Kind of an event of the feed."""

    IMAGE = "image"
    """An image was finished; its image row is the event."""
    BLOCKED = "blocked"
    """A job ended since its prompt or image was withheld."""
    FAILED = "failed"
    """A job ended without an image, its attempts used up."""
    RETRACTED = "retracted"
    """An image was taken back: its row is gone, and what was made of it is to be dropped."""
    DELETED = "deleted"
    """A batch was deleted, with all its rows and events."""
    SEALED = "sealed"
    """A shard of an export was written and will not change; a later version of it is another event."""
    BATCH = "batch"
    """A batch has ended, has unfinished jobs again, or was moved to another output."""


STORED_EVENTS = tuple(kind for kind in EventKind if kind != EventKind.IMAGE)


class BatchState(StrEnum):
    """State of a batch, derived from its timestamps and its jobs."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class WorkerState(StrEnum):
    """Health of a worker."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """A fault of its host keeps it from working in some or all lanes; it tries again by itself."""


class WorkerActivity(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    """Its process connects and loads what it needs before the first wake-up."""
    IDLE = "idle"
    """It waits for work; its models may be loaded."""
    BUSY = "busy"
    """It loads models, renders or delivers images of a lane."""
    DRAINING = "draining"
    """It was asked to stop, claims nothing any more and delivers what is rendered."""


class DrainKind(StrEnum):
    """What an operator has drained: it finishes what it is at, and takes no more jobs."""

    HOST = "host"
    """All workers of a host, also those that start there later."""
    WORKER = "worker"
    """One worker, and whichever takes its place on the same device of its host."""


class WorkerEventKind(StrEnum):
    """What became of a worker."""

    UNHEALTHY = "unhealthy"
    """It reported a fault of its host, or another one than before."""
    HEALTHY = "healthy"
    """It reported that the fault is gone."""
    LOST = "lost"
    """It has not reported for an hour, and never said that it stops."""


class CanaryVerdict(StrEnum):
    """Result of a batch's canary, the first rows that run before the others."""

    PASSED = "passed"
    STOPPED = "stopped"
    """Too many of them failed or were blocked: the batch was paused."""
    OVERRULED = "overruled"
    """A user resumed the batch in spite of the stop."""


class Outcome(StrEnum):
    """How an attempt ended that produced no image."""

    RETRIED = "retried"
    FAILED = "failed"
    BLOCKED = "blocked"
    EXPIRED = "expired"
    RETURNED = "returned"
    """Given back without being charged: the failure is attributed to the worker."""


class ErrorKind(StrEnum):
    """Kind of error of an attempt."""

    OUT_OF_MEMORY = "oom"
    NOT_FINITE = "nan"
    BLACK = "black"
    SAFETY = "safety"
    WATERMARK = "watermark"
    OBJECT_STORE = "io"
    MODEL = "model"
    BAD_INPUT = "bad-input"
    CRASH = "crash"
    EXCEPTION = "exception"

    @property
    def most_attempts(self) -> int:
        """Maximum number of attempts for an error of this kind; the batch's `max_attempts` may be lower."""
        return _MOST_ATTEMPTS.get(self, 100)


# Watermark and bad-input errors are deterministic; NaN and black images can also be caused by another job in the device
# batch, a driver or a memory fault.
_MOST_ATTEMPTS = {
    ErrorKind.WATERMARK: 1,
    ErrorKind.BAD_INPUT: 1,
    ErrorKind.NOT_FINITE: 2,
    ErrorKind.BLACK: 2,
}


class Mode(StrEnum):
    """Generation mode: the kind of input that an image is generated from."""

    TEXT2IMAGE = "text2image"
    IMAGE2IMAGE = "image2image"
    INPAINT = "inpaint"
    DEPTH = "depth"
    UPSCALE = "upscale"


class Scoring(StrEnum):
    """Whether the CLIP score of an image and its prompt is computed."""

    AUTO = "auto"
    """On if the model's card names a CLIP model whose files exist."""
    ON = "on"
    OFF = "off"


class Weights(StrEnum):
    """Precision of a model's weights in memory."""

    FULL = "full"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"


class Decoder(StrEnum):
    """The decoder that turns latents into images."""

    FULL = "full"
    """The model's own VAE."""
    TINY = "tiny"
    """A small autoencoder that the model's card names."""


class SeedSource(StrEnum):
    """What the derived seeds of a batch's rows depend on, beside the batch seed."""

    ID = "id"
    """The row's id: no other row's place or number changes its images."""
    ROW = "row"
    """The row's number in the manifest."""


class SafetyAction(StrEnum):
    """What happens to an image that the prompt filter or the safety checker flags."""

    BLOCK = "block"
    QUARANTINE = "quarantine"
    """Its job is blocked, and its file is kept beside the dataset."""
    FLAG = "flag"
    BLACKEN = "blacken"
    BLUR = "blur"


class PromptDisclosure(StrEnum):
    """What the signed manifest of an image tells of its prompt."""

    OMIT = "omit"
    HASH = "hash"
    """The SHA-256 of its UTF-8."""
    FULL = "full"


class TrainingUse(StrEnum):
    """What the signed manifest of an image says of training models and mining data with it."""

    NOT_ALLOWED = "not-allowed"
    ALLOWED = "allowed"


WITHHOLDING = (SafetyAction.BLOCK, SafetyAction.QUARANTINE)
"""Actions under which flagged images are no part of the dataset."""


class SafetyStrength(StrEnum):
    """How strict the safety checker is: what is added to all its scores (`jobs.policy.safety_thresholds`)."""

    LENIENT = "lenient"
    STANDARD = "standard"
    """The thresholds that come with the checker."""
    STRONG = "strong"


class WatermarkPolicy(StrEnum):
    """Whether images get an invisible watermark, and what happens if it can't be embedded; blackened ones get none."""

    REQUIRE = "require"
    REQUIRE_STRONG = "require-strong"
    """Jobs whose mark would not survive further compression fail, too."""
    BEST_EFFORT = "best-effort"
    OFF = "off"

    @property
    def is_required(self) -> bool:
        """Whether a job fails if its image can't be marked."""
        return self in (WatermarkPolicy.REQUIRE, WatermarkPolicy.REQUIRE_STRONG)


class WatermarkStrength(StrEnum):
    """Whether a tiled mark would survive another JPEG compression, of quality 75."""

    STRONG = "strong"
    WEAK = "weak"


class WatermarkMethod(StrEnum):
    """Method of embedding the invisible watermark; dwtDct and dwtDctSvd are of the package `invisible-watermark`."""

    TILED = "tiled"
    DWT_DCT_SVD = "dwtDctSvd"
    DWT_DCT = "dwtDct"


LEAST_TILED_SIDE = 128
"""Side of a square of the smallest area that gets tiled marks: below, they can't be read as a rule."""


class ImageFormat(StrEnum):
    """File format of an image."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"

    @property
    def extension(self) -> str:
        """What the names of files in this format end in, without a dot."""
        return "jpg" if self == ImageFormat.JPEG else self.value

    @property
    def media_type(self) -> str:
        """The media type of files in this format."""
        return f"image/{self.value}"
