"""The stages off the device: watermark, encode, read the mark back, upload, complete."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from sqlalchemy import Engine

from jobs.job import Image, Lane
from jobs.manifest import split_loras
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.states import ErrorKind, ImageFormat, WatermarkMethod, WatermarkPolicy
from jobs.storage import keys
from jobs.storage.open import ObjectStore
from models.catalogue.samplers import viewer_name
from models.watermark import codec as watermark
from worker.bisect import Stage
from worker.imaging.encode import UnreadableImageError, decode, encode, parameters_text
from worker.item import Frame, Pixels
from worker.model_cache.lane_models import Kit

if TYPE_CHECKING:
    from models.runtime.compile_options import Speedup

# The share of the mark's bits that must read back where the mark is required. What dwtDct writes doesn't read back
# in full even from lossless files; 36 of 48 bits are what Stable Diffusion XL's documentation calls "very likely".
NEEDED = {WatermarkMethod.DWT_DCT_SVD: 1.0, WatermarkMethod.DWT_DCT: 0.75}

_PIXELS = 1 << 22
"""That are marked at once: more is no faster, and takes memory."""


@dataclass(frozen=True)
class Finishing:
    """What the stages of one shift share. They run in background threads and touch no model."""

    kit: Kit
    lane: Lane
    store: ObjectStore
    engine: Engine
    payload: str
    method: WatermarkMethod
    versions: dict[str, str]

    @classmethod
    def open(
        cls, kit: Kit, lane: Lane, store: ObjectStore, settings: Settings, engine: Engine, speedup: "Speedup"
    ) -> Self:
        """For a lane's shift, drawn with `speedup`, whose images go to `store`."""
        from models.runtime.device import versions  # noqa: PLC0415 - brings torch

        made_with = versions() | kit.notes(speedup)
        return cls(kit, lane, store, engine, settings.watermark, settings.watermark_method, made_with)

    def stages(self, upload: Stage) -> list[tuple[str, Stage]]:
        """The pipeline's second half, in order; `complete` follows, outside of any isolation."""
        return [
            ("watermark", self.mark),
            ("encode", self.encode),
            ("readback", self.read_mark_back),
            ("upload", upload),
        ]

    def mark(self, frames: Sequence[Frame]) -> list[Frame]:
        """Embed the invisible mark, last of all that changes pixels."""
        if self.lane.watermark == WatermarkPolicy.OFF:
            return list(frames)
        return [marked for alike in _of_one_size(frames) for marked in self._marked(alike)]

    def encode(self, frames: Sequence[Frame]) -> list[Frame]:
        """The file's bytes, with the generation parameters in them unless switched off."""
        return [
            replace(
                frame,
                encoded=encode(
                    frame.picture,
                    ImageFormat(self.lane.format),
                    quality=self.lane.quality,
                    parameters=self._parameters(frame) if self.lane.parameters else None,
                ),
            )
            for frame in frames
        ]

    def read_mark_back(self, frames: Sequence[Frame]) -> list[Frame]:
        """Read pixels and mark from the files to be uploaded; where the mark doesn't hold, the policy decides."""
        unmarked = [_checked(frame) for frame in frames if not frame.watermark]
        marked = [frame for frame in frames if frame.watermark]
        return unmarked + [read for alike in _of_one_size(marked) for read in self._read_back(alike)]

    def upload(self, frames: Sequence[Frame]) -> list[Frame]:
        """Store the files; their keys name their content, so nothing that a row points to is overwritten."""
        return [self._upload(frame) for frame in frames]

    def complete(self, frames: Sequence[Frame]) -> None:
        """Image rows and jobs done, in one transaction; LeaseLostError names those that were no longer ours."""
        if frames:
            transitions.complete(self.engine, [self._image(frame) for frame in frames])

    def _marked(self, frames: Sequence[Frame]) -> list[Frame]:
        """Frames whose pictures have one size, as one batch."""
        batch = np.stack([frame.picture for frame in frames])
        try:
            marked = watermark.embed(batch, self.payload.encode(), self._method)
        except watermark.MarkTooSmallError as error:
            if self.lane.watermark == WatermarkPolicy.REQUIRE:
                return [frame.ended(ErrorKind.WATERMARK, str(error)) for frame in frames]
            return list(frames)
        return [
            replace(frame, pixels=pixels, watermark=self.payload)
            for frame, pixels in zip(frames, marked, strict=True)
        ]

    def _read_back(self, frames: Sequence[Frame]) -> list[Frame]:
        """Frames whose pictures have one size, as one batch."""
        batch = np.stack([_as_read(frame) for frame in frames])
        accuracies = watermark.bit_accuracy(batch, self.payload.encode(), self._method).tolist()
        return [
            self._with_accuracy(frame, accuracy) for frame, accuracy in zip(frames, accuracies, strict=True)
        ]

    def _with_accuracy(self, frame: Frame, accuracy: float) -> Frame:
        needed = NEEDED[self.method]
        if accuracy < needed and self.lane.watermark == WatermarkPolicy.REQUIRE:
            found = f"the mark reads back at {accuracy:.0%} of its bits, {needed:.0%} are needed"
            return frame.ended(ErrorKind.WATERMARK, f"{found}; watermark=best-effort lets such images pass")
        return replace(frame, bit_accuracy=accuracy)

    @property
    def _method(self) -> watermark.Method:
        return watermark.Method(self.method)

    def _upload(self, frame: Frame) -> Frame:
        assert frame.encoded is not None
        key = image_key(self.lane, frame)
        self.store.put(key, frame.encoded.body, content_type=frame.encoded.content_type)
        return replace(frame, key=key)

    def _parameters(self, frame: Frame) -> str:
        job, upscaling, lane = frame.job, self.kit.upscaler_checkpoint, self.lane
        height, width = frame.picture.shape[:2]
        scale = max(1, lane.upscale)
        asked = zip(split_loras(lane.lora), self.kit.loras, strict=True)
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
            model_digest=self.kit.checkpoint.digest,
            upscale=upscaling.card.id if upscaling else None,
            strength=job.strength,
            loras=[(id, weight, checkpoint.digest) for (id, weight), checkpoint in asked],
        )

    def _image(self, frame: Frame) -> Image:
        encoded, key = frame.encoded, frame.key
        assert encoded is not None
        assert key is not None
        height, width = frame.picture.shape[:2]
        upscaling = self.kit.upscaler_checkpoint
        return Image(
            id=frame.job.id,
            lease=frame.job.lease,
            key=key,
            format=encoded.format,
            width=width,
            height=height,
            bytes=len(encoded.body),
            sha256=encoded.sha256,
            prompt_tokens=frame.prompt_tokens,
            prompt_truncated=frame.prompt_truncated,
            model_revision=self.kit.checkpoint.revision,
            model_digest=self.kit.checkpoint.digest,
            upscaler_digest=upscaling.digest if upscaling else None,
            safety_verdict=frame.safety_verdict,
            safety_reason=frame.flagged_for,
            safety_scores=frame.safety_scores,
            watermark=frame.watermark,
            watermark_bit_accuracy=frame.bit_accuracy,
            device=self.kit.device.label,
            batch_rows=frame.batch_rows,
            versions=self.versions | _notes(self.lane, frame),
            timings=dict(frame.timings),
            init_image_sha256=frame.image_sha256,
            lora_digest="+".join(lora.digest for lora in self.kit.loras) or None,
            quality=frame.quality,
            watermark_method=self.method if frame.watermark else None,
        )


def _of_one_size(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Batches of frames whose pictures have one size, not too many pixels together."""
    alike = defaultdict(list)
    for frame in frames:
        alike[frame.picture.shape].append(frame)
    for (height, width, _), group in alike.items():
        size = max(1, _PIXELS // (height * width))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _checked(frame: Frame) -> Frame:
    """The frame, whose file was read if it has to hold just these pixels."""
    assert frame.encoded is not None
    if frame.encoded.format == "png":
        _as_read(frame)
    return frame


def _as_read(frame: Frame) -> Pixels:
    """The pixels that the file holds. Raises UnreadableImageError for a PNG that doesn't hold the picture's."""
    encoded = frame.encoded
    assert encoded is not None
    pixels = decode(encoded.body)
    if encoded.format == "png" and not np.array_equal(pixels, frame.picture):
        raise UnreadableImageError("the PNG that was encoded holds other pixels than the picture")
    return pixels


def _notes(lane: Lane, frame: Frame) -> dict[str, str]:
    """Of how the picture was made, that which not every picture's row says."""
    notes = {
        "upscaler_rows": frame.upscaler_rows,
        "deep_cache": lane.deep_cache if lane.deep_cache > 1 else 0,
    }
    return {name: str(value) for name, value in notes.items() if value}


def image_key(lane: Lane, frame: Frame) -> str:
    """The key of a frame's file."""
    assert frame.encoded is not None
    job, encoded = frame.job, frame.encoded
    return keys.image_key(lane.batch, job.ordinal, job.index, encoded.sha256, encoded.extension)
