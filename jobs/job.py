"""What a worker gets when it claims, and what it must bring to finish."""

from dataclasses import dataclass, fields
from typing import Any, NewType
from uuid import UUID

from jobs.states import ErrorKind, Mode

JobId = NewType("JobId", int)
BatchId = NewType("BatchId", int)
LaneId = NewType("LaneId", int)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job: one image to make. `lease` must be named by every later write.

    The pictures are absolute paths or s3:// URIs.
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
    """Nobody has claimed it before."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Jobs of one batch and tenant that share model, mode, LoRAs, size and chain, with the policy of their batch.

    A `width` and `height` of 0 stand for those of the picture that a job starts from.
    """

    id: LaneId
    batch_id: BatchId
    batch: str
    output: str
    model: str
    mode: str
    lora: str
    width: int
    height: int
    upscale: int
    safety: str
    watermark: str
    format: str
    quality: int
    parameters: bool
    clip_score: str
    deep_cache: int
    weights: str | None
    """How the model's weights are held; None: as the worker's settings say."""
    decoder: str

    @property
    def upscales_drawn(self) -> bool:
        """Whether pictures are drawn and then enlarged."""
        return bool(self.upscale) and self.mode != Mode.UPSCALE


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt gave no image."""

    id: JobId
    lease: UUID
    kind: ErrorKind
    text: str

    def record(self) -> dict[str, Any]:
        """As the fail and block statements take it."""
        return {
            "id": self.id,
            "lease": str(self.lease),
            "error_kind": self.kind,
            "error_text": self.text[:2000].replace("\0", "").encode(errors="replace").decode(),
            "most_attempts": self.kind.most_attempts,
        }


@dataclass(frozen=True, slots=True)
class Image:
    """What is written about a finished image beside what its job already says."""

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

    def record(self) -> dict[str, Any]:
        """As the complete statement takes it."""
        return {name: getattr(self, name) for name in _IMAGE_FIELDS} | {"lease": str(self.lease)}


# dataclasses.asdict copies every value in depth, which costs more than all else that completing a job does.
_IMAGE_FIELDS = tuple(field.name for field in fields(Image))
