"""The stages that don't use the device: watermark, encode, verify the watermark, upload; then completing the jobs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from sqlalchemy import Engine

from jobs.job_types import Image, Lane
from jobs.manifest import split_loras
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.states import ErrorKind, ImageFormat, WatermarkMethod, WatermarkPolicy
from jobs.storage import key_layout
from jobs.storage.open import ObjectStore
from models.catalogue.samplers import viewer_name
from models.watermark import codec as watermark
from worker.bisect import Stage
from worker.imaging.encode import UnreadableImageError, decode, encode, parameters_text
from worker.item import PipelineItem, Pixels
from worker.model_cache.lane_models import LaneModels

if TYPE_CHECKING:
    from models.runtime.compile_options import CompileOptions

# The share of the watermark's bits that must be decoded where the policy is `require`. dwtDct marks can't be decoded
# in full even from lossless files; 36 of 48 bits are what Stable Diffusion XL's documentation calls "very likely".
NEEDED = {WatermarkMethod.DWT_DCT_SVD: 1.0, WatermarkMethod.DWT_DCT: 0.75}

_PIXELS = 1 << 22
"""The most pixels that are watermarked in one batch: more is no faster, and takes memory."""


@dataclass(frozen=True)
class FinishStages:
    """The state shared by the stages of one lane session. They run in background threads and use no model."""

    lane_models: LaneModels
    lane: Lane
    store: ObjectStore
    engine: Engine
    payload: str
    method: WatermarkMethod
    versions: dict[str, str]

    @classmethod
    def open(
        cls,
        lane_models: LaneModels,
        lane: Lane,
        store: ObjectStore,
        settings: Settings,
        engine: Engine,
        compile_options: "CompileOptions",
    ) -> Self:
        """Create the stages for a lane session that renders with `compile_options` and writes images to `store`."""
        from models.runtime.device import versions  # noqa: PLC0415 - imports torch

        made_with = versions() | lane_models.notes(compile_options)
        return cls(lane_models, lane, store, engine, settings.watermark, settings.watermark_method, made_with)

    def stages(self, upload: Stage) -> list[tuple[str, Stage]]:
        """Return the second half of the pipeline, in order; `complete` follows, without bisecting on errors."""
        return [
            ("watermark", self.mark),
            ("encode", self.encode),
            ("readback", self.read_mark_back),
            ("upload", upload),
        ]

    def mark(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Embed the invisible watermark, after everything else that changes pixels."""
        if self.lane.watermark == WatermarkPolicy.OFF:
            return list(items)
        return [marked for alike in _of_one_size(items) for marked in self._marked(alike)]

    def encode(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Encode the image file, with the generation parameters as metadata unless switched off."""
        return [
            replace(
                item,
                encoded=encode(
                    item.picture,
                    ImageFormat(self.lane.format),
                    quality=self.lane.quality,
                    parameters=self._parameters(item) if self.lane.parameters else None,
                ),
            )
            for item in items
        ]

    def read_mark_back(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Decode the encoded files and verify pixels and watermark; where the mark fails, the policy decides."""
        unmarked = [_checked(item) for item in items if not item.watermark]
        marked = [item for item in items if item.watermark]
        return unmarked + [read for alike in _of_one_size(marked) for read in self._read_back(alike)]

    def upload(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Store the files; keys contain the content's digest, so no object that a row names is overwritten."""
        return [self._upload(item) for item in items]

    def complete(self, items: Sequence[PipelineItem]) -> None:
        """Insert image rows and mark jobs as done, in one transaction; LeaseLostError names jobs with lost leases."""
        if items:
            transitions.complete(self.engine, [self._image(item) for item in items])

    def _marked(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Embed the watermark in images of one size, as one batch."""
        batch = np.stack([item.picture for item in items])
        try:
            marked = watermark.embed(batch, self.payload.encode(), self._method)
        except watermark.MarkTooSmallError as error:
            if self.lane.watermark == WatermarkPolicy.REQUIRE:
                return [item.ended(ErrorKind.WATERMARK, str(error)) for item in items]
            return list(items)
        return [
            replace(item, pixels=pixels, watermark=self.payload)
            for item, pixels in zip(items, marked, strict=True)
        ]

    def _read_back(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Decode the watermark of images of one size, as one batch."""
        batch = np.stack([_as_read(item) for item in items])
        accuracies = watermark.bit_accuracy(batch, self.payload.encode(), self._method).tolist()
        return [self._with_accuracy(item, accuracy) for item, accuracy in zip(items, accuracies, strict=True)]

    def _with_accuracy(self, item: PipelineItem, accuracy: float) -> PipelineItem:
        needed = NEEDED[self.method]
        if accuracy < needed and self.lane.watermark == WatermarkPolicy.REQUIRE:
            found = f"the mark reads back at {accuracy:.0%} of its bits, {needed:.0%} are needed"
            return item.ended(ErrorKind.WATERMARK, f"{found}; watermark=best-effort lets such images pass")
        return replace(item, bit_accuracy=accuracy)

    @property
    def _method(self) -> watermark.Method:
        return watermark.Method(self.method)

    def _upload(self, item: PipelineItem) -> PipelineItem:
        assert item.encoded is not None
        key = image_key(self.lane, item)
        self.store.put(key, item.encoded.body, content_type=item.encoded.content_type)
        return replace(item, key=key)

    def _parameters(self, item: PipelineItem) -> str:
        job, upscaling, lane = item.job, self.lane_models.upscaler_checkpoint, self.lane
        height, width = item.picture.shape[:2]
        scale = max(1, lane.upscale)
        asked = zip(split_loras(lane.lora), self.lane_models.loras, strict=True)
        return parameters_text(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            steps=job.steps,
            sampler_label=viewer_name(job.sampler),
            guidance_scale=job.guidance_scale,
            seed=job.seed,
            width=width // scale,
            height=height // scale,
            model=lane.model,
            model_digest=self.lane_models.checkpoint.digest,
            upscale=upscaling.card.id if upscaling else None,
            strength=job.strength,
            loras=[(id, weight, checkpoint.digest) for (id, weight), checkpoint in asked],
        )

    def _image(self, item: PipelineItem) -> Image:
        encoded, key = item.encoded, item.key
        assert encoded is not None
        assert key is not None
        height, width = item.picture.shape[:2]
        upscaling = self.lane_models.upscaler_checkpoint
        return Image(
            id=item.job.id,
            lease=item.job.lease,
            key=key,
            format=encoded.format,
            width=width,
            height=height,
            bytes=len(encoded.body),
            sha256=encoded.sha256,
            prompt_tokens=item.prompt_tokens,
            prompt_truncated=item.prompt_truncated,
            model_revision=self.lane_models.checkpoint.revision,
            model_digest=self.lane_models.checkpoint.digest,
            upscaler_digest=upscaling.digest if upscaling else None,
            safety_verdict=item.safety_verdict,
            safety_reason=item.flagged_for,
            safety_scores=item.safety_scores,
            watermark=item.watermark,
            watermark_bit_accuracy=item.bit_accuracy,
            device=self.lane_models.device.label,
            batch_rows=item.batch_rows,
            versions=self.versions | _notes(self.lane, item),
            timings=dict(item.timings),
            init_image_sha256=item.image_sha256,
            lora_digest="+".join(lora.digest for lora in self.lane_models.loras) or None,
            quality=item.quality,
            watermark_method=self.method if item.watermark else None,
        )


def _of_one_size(items: Sequence[PipelineItem]) -> Iterator[list[PipelineItem]]:
    """Yield batches of items whose images have one size, limited in their total pixels."""
    alike = defaultdict(list)
    for item in items:
        alike[item.picture.shape].append(item)
    for (height, width, _), group in alike.items():
        size = max(1, _PIXELS // (height * width))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _checked(item: PipelineItem) -> PipelineItem:
    """Return the item after verifying a PNG's pixels."""
    assert item.encoded is not None
    if item.encoded.format == "png":
        _as_read(item)
    return item


def _as_read(item: PipelineItem) -> Pixels:
    """Return the pixels decoded from the file. Raises UnreadableImageError if a PNG's differ from the image's."""
    encoded = item.encoded
    assert encoded is not None
    pixels = decode(encoded.body)
    if encoded.format == "png" and not np.array_equal(pixels, item.picture):
        raise UnreadableImageError("the PNG that was encoded holds other pixels than the picture")
    return pixels


def _notes(lane: Lane, item: PipelineItem) -> dict[str, str]:
    """Return the options that affect pixels and apply to some images only."""
    rows = {"upscaler_rows": str(item.upscaler_rows)} if item.upscaler_rows else {}
    return rows | lane.policy.recorded()


def image_key(lane: Lane, item: PipelineItem) -> str:
    """Return the object key of an item's file."""
    assert item.encoded is not None
    job, encoded = item.job, item.encoded
    return key_layout.image_key(lane.batch, job.ordinal, job.index, encoded.sha256, encoded.extension)
