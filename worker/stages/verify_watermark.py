"""Verify watermark: decode the encoded files, and check their pixels and their watermark."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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
        """Return the items with the share of their mark's bits that was read; raises for a PNG of other pixels."""
        unmarked = [_checked(item) for item in items if not item.watermark]
        tiled = [item for item in items if item.watermark_method is WatermarkMethod.TILED]
        texts = [
            item for item in items if item.watermark and item.watermark_method is not WatermarkMethod.TILED
        ]
        read_texts = [read for alike in batches_of_one_size(texts) for read in self._read_texts(alike)]
        return unmarked + [self._read_tiled(item) for item in tiled] + read_texts

    def _read_tiled(self, item: PipelineItem) -> PipelineItem:
        found = read(_as_read(item), self.context.mark_key.secret)
        wanted = self.context.mark_payload(item.job).bits
        return self._with_accuracy(item, float((found.payload == wanted).mean()))

    def _read_texts(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        batch = np.stack([_as_read(item) for item in items])
        method = codec.Method(self.context.text_mark_method)
        accuracies = codec.bit_accuracy(batch, self.context.watermark_text.encode(), method).tolist()
        return [self._with_accuracy(item, accuracy) for item, accuracy in zip(items, accuracies, strict=True)]

    def _with_accuracy(self, item: PipelineItem, accuracy: float) -> PipelineItem:
        assert item.watermark_method is not None
        needed = NEEDED[item.watermark_method]
        if accuracy < needed and self.context.lane.policy.watermark == WatermarkPolicy.REQUIRE:
            found = f"the mark reads back at {accuracy:.0%} of its bits, {needed:.0%} are needed"
            return item.ended(ErrorKind.WATERMARK, f"{found}; watermark=best-effort lets such images pass")
        return replace(item, bit_accuracy=accuracy)


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
    if encoded.format == "png" and not np.array_equal(pixels, item.image):
        raise UnreadableImageError("the PNG that was encoded holds other pixels than the picture")
    return pixels
