"""The lifecycle of a job, and the words for how an attempt can end.

queued ──claim──▶ running ──complete──▶ done
  ▲                │  │ └──block──▶ blocked      (safety)
  │                │  └──fail, attempts used up──▶ failed
  └─retry, release,┘
    lease ran out        queued | running ──cancel──▶ cancelled
  ◀──────── retry by hand ──── failed | blocked | cancelled
"""

from enum import StrEnum

EVERYBODY = "*"
"""All tenants together, where a limit is set for them; so no tenant can be called that."""


class JobState(StrEnum):
    """Where a job stands; every change of it is one statement in `jobs.queue.transitions`."""

    QUEUED = "queued"
    """Waits for a worker, or for its retry delay to pass."""
    RUNNING = "running"
    """Claimed: has a lease that a worker must renew."""
    DONE = "done"
    """Its image is stored and has a row; never changes again."""
    FAILED = "failed"
    """All attempts used up, or an error that another attempt can't mend."""
    BLOCKED = "blocked"
    """Withheld by the prompt check or the safety checker."""
    CANCELLED = "cancelled"
    """Its batch was cancelled before it was done."""


FINISHED = (JobState.DONE, JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED)
RETRYABLE = (JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED)


class BatchState(StrEnum):
    """Where a batch stands, derived from its marks and its jobs."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class WorkerState(StrEnum):
    """Whether a worker can do its work."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """Something of its host keeps it from some or all lanes; it tries again by itself."""


class CanaryVerdict(StrEnum):
    """What became of a batch's first rows, which go ahead of the others."""

    PASSED = "passed"
    STOPPED = "stopped"
    """Too many of them failed or were blocked: the batch was paused."""
    OVERRULED = "overruled"
    """Somebody resumed the batch nevertheless."""


class Outcome(StrEnum):
    """How an attempt ended that gave no image."""

    RETRIED = "retried"
    FAILED = "failed"
    BLOCKED = "blocked"
    EXPIRED = "expired"
    RETURNED = "returned"
    """Given back, uncharged: the worker on which it failed is taken to be to blame."""


class ErrorKind(StrEnum):
    """What went wrong in an attempt."""

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
        """How many attempts an error of this kind allows, whatever the batch would."""
        return _MOST_ATTEMPTS.get(self, 100)


# The mark and a bad input can't change; pixels only where a neighbour's, a driver's or a memory's fault spoilt them.
_MOST_ATTEMPTS = {
    ErrorKind.WATERMARK: 1,
    ErrorKind.BAD_INPUT: 1,
    ErrorKind.NOT_FINITE: 2,
    ErrorKind.BLACK: 2,
}


class Mode(StrEnum):
    """What a picture is made from."""

    TEXT2IMAGE = "text2image"
    IMAGE2IMAGE = "image2image"
    INPAINT = "inpaint"
    DEPTH = "depth"
    UPSCALE = "upscale"


class Scoring(StrEnum):
    """Whether the CLIP score of a picture and its prompt is computed."""

    AUTO = "auto"
    """Where the model names a CLIP whose files are there."""
    ON = "on"
    OFF = "off"


class Weights(StrEnum):
    """How the weights of a model are held."""

    FULL = "full"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"


class Decoder(StrEnum):
    """What makes pictures of a model's latents."""

    FULL = "full"
    """The model's own VAE."""
    TINY = "tiny"
    """A small autoencoder that the model's card names."""


class SafetyAction(StrEnum):
    """What happens to a picture that the prompt check or the safety checker flags."""

    BLOCK = "block"
    FLAG = "flag"
    BLACKEN = "blacken"
    BLUR = "blur"


class WatermarkPolicy(StrEnum):
    """What happens when a picture can't hold the invisible mark."""

    REQUIRE = "require"
    BEST_EFFORT = "best-effort"
    OFF = "off"


class WatermarkMethod(StrEnum):
    """How the invisible mark gets into a picture, by the names of the package `invisible-watermark`."""

    DWT_DCT_SVD = "dwtDctSvd"
    DWT_DCT = "dwtDct"


class ImageFormat(StrEnum):
    """How a picture is encoded."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"
