"""Data classes of the job queue: Job and Lane, which a worker claims, and Image and Failure, which it records."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NewType
from uuid import UUID

from jobs.errors import UnknownPolicyError
from jobs.policy.batch_policy import BatchPolicy
from jobs.states import ErrorKind, Mode

JobId = NewType("JobId", int)
BatchId = NewType("BatchId", int)
LaneId = NewType("LaneId", int)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job: one image to generate. Every later write must give the `lease`.

    The input images are absolute paths or s3:// URIs.
    """

    id: JobId
    batch_id: BatchId
    lane_id: LaneId
    ordinal: int
    index: int
    attempt: int
    lease: UUID
    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    sampler: str
    seed: int
    noise_level: int | None
    init_image: str | None = None
    mask_image: str | None = None
    depth_image: str | None = None
    strength: float | None = None
    is_fresh: bool = False
    """Whether this is the job's first claim."""
    is_after_crash: bool = False
    """Whether the worker died that last claimed it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A group of jobs of one batch and tenant with the same model, mode, LoRAs, size and upscaling, and the policy.

    A `width` and `height` of 0 stand for the size of the job's input image. `folder` is where the batch's files are
    below the output: its name, unless it was renamed.
    """

    id: LaneId
    batch_id: BatchId
    batch: str
    folder: str
    output: str
    model: str
    mode: str
    lora: str
    width: int
    height: int
    upscale: int
    policy: BatchPolicy
    unknown_keys: tuple[str, ...] = ()
    """Keys of the policy that only a later version knows; then this one can't render the lane."""
    image_s: float | None = field(default=None, compare=False)
    """Worker seconds per image, as measured so far; None if there was none yet."""

    def require_known_policy(self) -> None:
        """Raise UnknownPolicyError if the policy has keys or values that this version doesn't know."""
        if self.unknown_keys:
            raise UnknownPolicyError(
                f"only a later version of nightmill knows {', '.join(self.unknown_keys)}"
            )

    @property
    def upscales_generated(self) -> bool:
        """Whether images are generated and then upscaled."""
        return bool(self.upscale) and self.mode != Mode.UPSCALE


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why an attempt produced no image."""

    id: JobId
    lease: UUID
    kind: ErrorKind
    text: str
    scores: Mapping[str, Any] | None = None
    """What the safety checker found in an image that is blocked."""
    image: "Image | None" = None
    """The columns of the row that the blocked image would have, if its file is kept in quarantine, under `key`."""
    key: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the values as the fail and block statements take them."""
        return {
            "id": self.id,
            "lease": str(self.lease),
            "error_kind": self.kind,
            "error_text": self.text[:2000].replace("\0", "").encode(errors="replace").decode(),
            "most_attempts": self.kind.most_attempts,
            "scores": self.scores,
            "image": self.image and self.image.record(),
            "quarantined": self.key,
        }


@dataclass(frozen=True, slots=True)
class Image:
    """The columns of an image row that the worker brings (`jobs.db.images_table`)."""

    id: JobId
    lease: UUID
    key: str
    format: str
    width: int
    height: int
    bytes: int
    sha256: str
    prompt_tokens: int
    prompt_truncated: bool
    model_revision: str
    model_digest: str
    upscaler_digest: str | None
    safety_verdict: str
    safety_reason: str | None
    safety_scores: dict[str, Any] | None
    watermark: str | None
    watermark_bit_accuracy: float | None
    device: str
    batch_rows: int
    versions: dict[str, str]
    timings: dict[str, float]
    init_image_sha256: str | None = None
    lora_digest: str | None = None
    quality: dict[str, Any] | None = None
    watermark_method: str | None = None
    annotations: dict[str, Any] | None = None
    phash: str | None = None
    inputs_sha256: str | None = None
    reused_from: int | None = None
    pixels_sha256: str | None = None
    iscc: str | None = None
    c2pa_manifest_id: str | None = None
    watermark_strength: str | None = None
    c2pa_sidecar_sha256: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Values of columns that aren't fields here, by name."""

    def record(self) -> dict[str, Any]:
        """Return the values as the complete statement takes them."""
        return (
            {name: getattr(self, name) for name in _IMAGE_FIELDS}
            | dict(self.more)
            | {"lease": str(self.lease)}
        )


# dataclasses.asdict makes deep copies of all values, which costs more than the rest of completing a job.
_IMAGE_FIELDS = tuple(each.name for each in fields(Image) if each.name != "more")
