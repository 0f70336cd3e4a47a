"""Upscale input: enlarge input images to four times their width and height, without generating any."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jobs.states import ErrorKind, Mode
from models.catalogue.card import Card
from worker.item import PipelineItem, Pixels
from worker.rendering.grouped_stage_adapter import Grouped
from worker.rendering.requests_from_jobs import upscale_request
from worker.rendering.upscaler_batches import FACTOR, upscaled, upscaler_card
from worker.stage import ImageStage, Place, StageContext

if TYPE_CHECKING:
    from models.families.upscaler import UpscaleRequest


class UpscaleInput(ImageStage):
    """Upscales input images, with the row's steps, guidance and sampler."""

    name = "upscale_input"
    place = Place.DEVICE
    switched_on_by = "models that are upscalers"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the lane only upscales input images."""
        return context.lane.mode == Mode.UPSCALE

    def renderer(self) -> Grouped:
        """Return the stage with device batches of the upscaler's size."""
        return Grouped(self, self.context.model_cache.rows(self.context.lane, "upscale"))

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Upscale images of the lane's size in batches, or each at its own size if the lane has none."""
        if not self.context.lane.width:
            return [self._at_own_size(item) for item in items]
        card = upscaler_card(self.context)
        return upscaled(self.context, items, [_request(item, _image(item), card) for item in items])

    def _at_own_size(self, item: PipelineItem) -> PipelineItem:
        card, image = upscaler_card(self.context), _image(item)
        height, width = image.shape[:2]
        if not card.min_size <= min(height, width) <= max(height, width) <= card.max_size:
            text = f"init_image has {width}x{height} pixels; {card.id} enlarges {card.min_size} to {card.max_size}"
            return item.ended(
                ErrorKind.BAD_INPUT, f"{text} a side; give the row a width and height to scale it"
            )
        request = _request(item, padded_to(image, card.size_multiple), card)
        (done,) = upscaled(self.context, [item], [request], rows=1)
        if done.pixels is None:
            return done
        return replace(done, pixels=np.ascontiguousarray(done.pixels[: height * FACTOR, : width * FACTOR]))


def padded_to(pixels: Pixels, multiple: int) -> Pixels:
    """Pad the image by repeating its right and lower edges until both sides are multiples."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def _image(item: PipelineItem) -> Pixels:
    assert item.inputs.image is not None
    return item.inputs.image


def _request(item: PipelineItem, pixels: Pixels, card: Card) -> "UpscaleRequest":
    job = item.job
    return upscale_request(
        job, pixels, card, steps=job.steps, guidance_scale=job.guidance_scale, sampler=job.sampler
    )
