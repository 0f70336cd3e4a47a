"""The piece of work that the stages hand on: a job and what has become of it so far."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.job import Failure, Job
from jobs.states import ErrorKind, ImageFormat

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class End:
    """Why a frame leaves the pipeline without an image; `is_of_host`: it may be this host's fault alone."""

    kind: ErrorKind
    text: str
    is_block: bool = False
    is_of_host: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a job starts from.

    `image` is (height, width, 3) uint8 RGB, `mask` (height, width) uint8 from 0, keep, to 255, repaint, `depth`
    (height, width) float32, larger being nearer; `image_sha256` is that of the image's file.
    """

    image: Pixels | None = None
    mask: Pixels | None = None
    depth: NDArray[np.float32] | None = None
    image_sha256: str | None = None


@dataclass(frozen=True)
class Encoded:
    """A picture as a file: its bytes, what they are, and their SHA-256 in hex."""

    body: bytes
    format: ImageFormat
    content_type: str
    extension: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PipelineItem:
    """One job on its way. `pixels` are (height, width, 3) uint8 RGB; `timings` seconds by stage.

    `batch_rows` are the images that were drawn at once, or enlarged where that is all; `upscaler_rows` those that were
    enlarged after drawing. `inputs` are there until the picture is drawn; `began_s` is by the monotonic clock.
    """

    job: Job
    inputs: Inputs = Inputs()
    image_sha256: str | None = None
    quality: dict[str, Any] | None = None
    prompt_tokens: int = 0
    prompt_truncated: bool = False
    flagged_for: str | None = None
    pixels: Pixels | None = None
    batch_rows: int = 0
    upscaler_rows: int = 0
    safety_scores: dict[str, Any] | None = None
    safety_verdict: str = "safe"
    watermark: str | None = None
    bit_accuracy: float | None = None
    encoded: Encoded | None = None
    key: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic, compare=False)
    end: End | None = None

    @property
    def picture(self) -> Pixels:
        """The pixels of a frame that has been generated."""
        assert self.pixels is not None
        return self.pixels

    def ended(
        self, kind: ErrorKind, text: str, *, is_block: bool = False, is_of_host: bool = False
    ) -> "PipelineItem":
        """This frame, leaving the pipeline."""
        return replace(self, end=End(kind, text, is_block, is_of_host))

    def spent(self, stage: str, seconds: float) -> "PipelineItem":
        """This frame with the time of a stage noted."""
        return replace(self, timings={**self.timings, stage: round(seconds, 6)})

    def failure(self) -> Failure:
        """The end as the job table takes it."""
        assert self.end is not None
        return Failure(self.job.id, self.job.lease, self.end.kind, self.end.text)
