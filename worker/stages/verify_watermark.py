"""Verify watermark: decode the files as they will be uploaded, and check their pixels and their watermark."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jobs.job_dataclasses import JobId
from jobs.states import ErrorKind, WatermarkMethod, WatermarkPolicy
from models.watermark import codec
from models.watermark.tiled.read import read
from worker.imaging.batches_of_one_size import batches_of_one_size
from worker.imaging.encode import UnreadableImageError, decode
from worker.item import PipelineItem, Pixels
from worker.stage import Place, Stage

# The share of the watermark's bits that must be decoded where the policy is `require`. dwtDct marks can't be decoded
# in full even from lossless files; 36 of 48 bits are what Stable Diffusion XL's documentation calls "very likely".
NEEDED = {WatermarkMethod.TILED: 1.0, WatermarkMethod.DWT_DCT_SVD: 1.0, WatermarkMethod.DWT_DCT: 0.75}


class VerifyWatermark(Stage):
    """Reads files back; where the mark can't be read, `watermark` decides whether the job fails."""

    name = "verify_watermark"
    place = Place.BACKGROUND

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with the digest of their file's pixels and the share of their mark's bits that was read.

        Raises for a PNG of other pixels, and for a blackened image that isn't black.
        """
        pixels = {item.job.id: _as_read(item) for item in items}
        known = [
            item if item.is_withheld else replace(item, pixels_sha256=_digest(pixels[item.job.id]))
            for item in items
        ]
        unmarked = [item for item in known if not item.watermark]
        tiled = [item for item in known if item.watermark_method is WatermarkMethod.TILED]
        texts = [
            item for item in known if item.watermark and item.watermark_method is not WatermarkMethod.TILED
        ]
        read_texts = [
            read for alike in batches_of_one_size(texts) for read in self._read_texts(alike, pixels)
        ]
        return unmarked + [self._read_tiled(item, pixels[item.job.id]) for item in tiled] + read_texts

    def _read_tiled(self, item: PipelineItem, pixels: Pixels) -> PipelineItem:
        found = read(pixels, self.context.mark_key.secret)
        wanted = self.context.mark_payload(item.job).bits
        return self._with_accuracy(item, float((found.payload == wanted).mean()))

    def _read_texts(
        self, items: Sequence[PipelineItem], pixels: Mapping[JobId, Pixels]
    ) -> list[PipelineItem]:
        batch = np.stack([pixels[item.job.id] for item in items])
        method = codec.Method(self.context.text_mark_method)
        accuracies = codec.bit_accuracy(batch, self.context.watermark_text.encode(), method).tolist()
        return [self._with_accuracy(item, accuracy) for item, accuracy in zip(items, accuracies, strict=True)]

    def _with_accuracy(self, item: PipelineItem, accuracy: float) -> PipelineItem:
        assert item.watermark_method is not None
        needed = NEEDED[item.watermark_method]
        if accuracy < needed and self.context.lane.policy.watermark == WatermarkPolicy.REQUIRE:
            found = f"the mark reads back at {accuracy:.0%} of its bits, {needed:.0%} are needed"
            advice = "a higher quality keeps more of it, watermark=best-effort lets such images pass"
            return item.ended(ErrorKind.WATERMARK, f"{found}; {advice}")
        return replace(item, bit_accuracy=accuracy)


def _as_read(item: PipelineItem) -> Pixels:
    """Return the pixels decoded from the file.

    Raises UnreadableImageError if a PNG's differ from the image's, or a blackened image's aren't all 0.
    """
    encoded = item.encoded
    assert encoded is not None
    pixels = decode(encoded.body)
    if item.is_blackened and pixels.any():
        raise UnreadableImageError("the file that was encoded of a black picture isn't wholly black")
    if encoded.format == "png" and not np.array_equal(pixels, item.image):
        raise UnreadableImageError("the PNG that was encoded holds other pixels than the picture")
    return pixels


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
