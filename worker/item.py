"""The pipeline item: a job and its intermediate results, passed from stage to stage."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.images.find_images_of_same_inputs import ReusableImage
from jobs.job_dataclasses import Failure, Job
from jobs.states import ErrorKind, ImageFormat, WatermarkMethod, WatermarkStrength
from models.provenance.parent_file import ParentFile

Pixels = NDArray[np.uint8]

BLACKENED = "blackened"
_WITHHELD = (BLACKENED, "blurred")


@dataclass(frozen=True, slots=True)
class End:
    """Why an item leaves the pipeline without an image; `is_of_host`: this host may be the cause, not the job."""

    kind: ErrorKind
    text: str
    is_block: bool = False
    is_of_host: bool = False


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The SHA-256 of the files that a job's input images are in, in hex; None: the job has no such input."""

    image: str | None = None
    mask: str | None = None
    depth: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A job's input images.

    `image` is (height, width, 3) uint8 RGB, `mask` (height, width) uint8 from 0 (keep) to 255 (repaint), `depth`
    (height, width) float32, larger values being nearer.
    """

    image: Pixels | None = None
    mask: Pixels | None = None
    depth: NDArray[np.float32] | None = None
    files: InputFiles = InputFiles()
    parent: ParentFile | None = None
    """The file of `image`, if it is kept."""
    findings: Mapping[str, Any] = field(default_factory=dict)
    """What the file of `image` says of its own origin: its manifest and mark, as JSON values."""


@dataclass(frozen=True)
class Encoded:
    """An encoded image file: its bytes, format and SHA-256 in hex; `sidecar` is the manifest that is kept beside it."""

    body: bytes
    format: ImageFormat
    content_type: str
    extension: str
    sha256: str
    sidecar: bytes | None = None

    @property
    def sidecar_sha256(self) -> str | None:
        """The SHA-256 of the sidecar, in hex; None if there is none."""
        return None if self.sidecar is None else sha256(self.sidecar).hexdigest()


@dataclass(frozen=True, slots=True)
class PipelineItem:
    """One job in the pipeline. `pixels` are (height, width, 3) uint8 RGB; `timings` are seconds by stage.

    `batch_rows` is the batch size at which the image was generated, or upscaled if it is only upscaled; `upscaler_rows`
    is the batch size at which a generated image was upscaled. `inputs` are dropped once the image is generated.
    `prompt_finding` is what the prompt filter found, `flagged_for` what that or the safety checker did. `parent` is
    the file that the image is made from, if files are signed. `reused` is an image of the same inputs that is copied
    instead of generating one. `began_s` is a time of the monotonic clock.
    `is_quarantined`: the image is flagged, and its file is kept beside the dataset.
    """

    job: Job
    inputs: Inputs = Inputs()
    input_files: InputFiles = InputFiles()
    reused: ReusableImage | None = None
    quality: dict[str, Any] | None = None
    phash: str | None = None
    prompt_tokens: int = 0
    prompt_truncated: bool = False
    prompt_finding: str | None = None
    flagged_for: str | None = None
    pixels: Pixels | None = None
    batch_rows: int = 0
    upscaler_rows: int = 0
    safety_scores: dict[str, Any] | None = None
    safety_verdict: str = "safe"
    is_quarantined: bool = False
    watermark: str | None = None
    watermark_method: WatermarkMethod | None = None
    bit_accuracy: float | None = None
    mark_strength: WatermarkStrength | None = None
    encoded: Encoded | None = None
    pixels_sha256: str | None = None
    iscc: str | None = None
    c2pa_manifest_id: str | None = None
    parent: ParentFile | None = None
    key: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic, compare=False)
    end: End | None = None

    @property
    def image(self) -> Pixels:
        """The pixels of an item that has been generated."""
        assert self.pixels is not None
        return self.pixels

    @property
    def is_blackened(self) -> bool:
        """Whether the image was blackened: it has no watermark, as every pixel of it is to be black."""
        return self.safety_verdict == BLACKENED

    @property
    def is_withheld(self) -> bool:
        """Whether the image was blackened or blurred."""
        return self.safety_verdict in _WITHHELD

    def ended(
        self, kind: ErrorKind, text: str, *, is_block: bool = False, is_of_host: bool = False
    ) -> "PipelineItem":
        """Return this item marked as leaving the pipeline."""
        return replace(self, end=End(kind, text, is_block, is_of_host))

    def spent(self, stage: str, seconds: float) -> "PipelineItem":
        """Return this item with the time of a stage recorded."""
        return replace(self, timings={**self.timings, stage: round(seconds, 6)})

    def annotated(self, stage: str, finding: Any) -> "PipelineItem":
        """Return this item with a stage's finding, any JSON value, for the image row's `annotations`."""
        return replace(self, annotations={**self.annotations, stage: finding})

    def failure(self) -> Failure:
        """Return the end as a `Failure` for the job table."""
        assert self.end is not None
        scores = self.safety_scores if self.end.is_block else None
        return Failure(self.job.id, self.job.lease, self.end.kind, self.end.text, scores)
