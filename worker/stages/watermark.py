"""Watermark: embed the invisible watermark, after everything else that changes pixels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jobs.states import ErrorKind, WatermarkMethod, WatermarkPolicy
from models.watermark import codec
from models.watermark.tiled.embed import embed
from models.watermark.tiled.read import read
from worker.imaging.batches_of_one_size import batches_of_one_size
from worker.item import PipelineItem
from worker.stage import Place, Stage, StageContext


class Watermark(Stage):
    """Embeds which job an image is of, or the text of the batch or the settings; blackened images stay black."""

    name = "watermark"
    place = Place.BACKGROUND
    switched_on_by = "`watermark`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the batch's images are to be marked."""
        return context.lane.policy.watermark != WatermarkPolicy.OFF

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items marked; what is too small to be marked ends or stays unmarked, as `watermark` says.

        Blackened images stay unmarked whatever it says.
        """
        black = [item for item in items if item.is_blackened]
        others = [item for item in items if not item.is_blackened]
        return black + [marked for alike in batches_of_one_size(others) for marked in self._marked(alike)]

    def _marked(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        height, width = items[0].image.shape[:2]
        if self.context.mark_method(width, height) is WatermarkMethod.TILED:
            return [marked for item in items for marked in (self._tiled(item) or self._with_text([item]))]
        return self._with_text(items)

    def _tiled(self, item: PipelineItem) -> list[PipelineItem]:
        """Return the item marked; nothing if the mark can't be read from it, as in noise and narrow stripes."""
        payload, secret = self.context.mark_payload(item.job), self.context.mark_key.secret
        pixels = embed(item.image, payload.bits, secret)
        if not np.array_equal(read(pixels, secret).payload, payload.bits):
            return []
        return [replace(item, pixels=pixels, watermark=payload.hex, watermark_method=WatermarkMethod.TILED)]

    def _with_text(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        text, method = self.context.watermark_text, self.context.text_mark_method
        batch = np.stack([item.image for item in items])
        try:
            marked = codec.embed(batch, text.encode(), codec.Method(method))
        except codec.MarkTooSmallError as error:
            if self.context.lane.policy.watermark.is_required:
                return [item.ended(ErrorKind.WATERMARK, str(error)) for item in items]
            return list(items)
        return [
            replace(item, pixels=pixels, watermark=text, watermark_method=method)
            for item, pixels in zip(items, marked, strict=True)
        ]
