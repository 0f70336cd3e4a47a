"""Verify watermark: decode the files as they will be uploaded, and check their pixels and their watermark."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jobs.job_dataclasses import JobId
from jobs.states import LEAST_TILED_SIDE, ErrorKind, WatermarkMethod, WatermarkPolicy, WatermarkStrength
from models.watermark import codec
from models.watermark.tiled.convolutional_code import encode
from models.watermark.tiled.keyed_carriers import carriers
from models.watermark.tiled.predict_survival import LEAST_MARGIN, margin_after_jpeg
from models.watermark.tiled.read import read
from worker.imaging.batches_of_one_size import batches_of_one_size
from worker.imaging.encode import UnreadableImageError, decode
from worker.item import PipelineItem, Pixels
from worker.stage import Place, Stage

# The share of the watermark's bits that must be decoded where the policy is `require`. dwtDct marks can't be decoded
# in full even from lossless files; 36 of 48 bits are what Stable Diffusion XL's documentation calls "very likely".
NEEDED = {WatermarkMethod.TILED: 1.0, WatermarkMethod.DWT_DCT_SVD: 1.0, WatermarkMethod.DWT_DCT: 0.75}

_WEAK = (
    "the mark is weak: it may be lost when the file is compressed again; a higher quality keeps more of it"
)
_NO_TILED = (
    "and it isn't known what such a mark survives: the picture can't hold another, or has less than "
    f"{LEAST_TILED_SIDE**2:,} pixels"
)


class VerifyWatermark(Stage):
    """Reads files back; where the mark can't be read, or is weak, `watermark` decides whether the job fails."""

    name = "verify_watermark"
    place = Place.BACKGROUND

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with the digest of their file's pixels, and what was read of their mark.

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
        key, wanted = self.context.mark_key.secret, self.context.mark_payload(item.job).bits
        found = self._with_accuracy(item, float((read(pixels, key).payload == wanted).mean()))
        if found.end is not None:
            return found
        margin = margin_after_jpeg(pixels, encode(wanted), carriers(key))
        is_strong = found.bit_accuracy == 1 and margin >= LEAST_MARGIN
        return self._with_strength(found, WatermarkStrength.STRONG if is_strong else WatermarkStrength.WEAK)

    def _read_texts(
        self, items: Sequence[PipelineItem], pixels: Mapping[JobId, Pixels]
    ) -> list[PipelineItem]:
        batch = np.stack([pixels[item.job.id] for item in items])
        method = codec.Method(self.context.text_mark_method)
        accuracies = codec.bit_accuracy(batch, self.context.watermark_text.encode(), method).tolist()
        found = [
            self._with_accuracy(item, accuracy) for item, accuracy in zip(items, accuracies, strict=True)
        ]
        return [item if item.end else self._with_strength(item, None) for item in found]

    def _with_accuracy(self, item: PipelineItem, accuracy: float) -> PipelineItem:
        assert item.watermark_method is not None
        needed = NEEDED[item.watermark_method]
        if accuracy < needed and self.context.lane.policy.watermark.is_required:
            found = f"the mark reads back at {accuracy:.0%} of its bits, {needed:.0%} are needed"
            advice = "a higher quality keeps more of it, watermark=best-effort lets such images pass"
            return item.ended(ErrorKind.WATERMARK, f"{found}; {advice}")
        return replace(item, bit_accuracy=accuracy)

    def _with_strength(self, item: PipelineItem, strength: WatermarkStrength | None) -> PipelineItem:
        """Return the item with the strength of its mark; None: that of a text, which nobody knows."""
        is_needed = self.context.lane.policy.watermark == WatermarkPolicy.REQUIRE_STRONG
        if is_needed and strength != WatermarkStrength.STRONG:
            found = _WEAK if strength else f"the mark is a text ({item.watermark_method}), {_NO_TILED}"
            advice = "watermark=require lets such images pass"
            return item.ended(ErrorKind.WATERMARK, f"{found}; {advice}")
        return replace(item, mark_strength=strength)


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
