"""Upscale: enlarge generated images to four times their width and height."""

from collections.abc import Sequence
from dataclasses import replace

from worker.item import PipelineItem
from worker.rendering.requests_from_jobs import upscale_request
from worker.rendering.upscaler_batches import FACTOR, upscaled, upscaler_card
from worker.stage import Place, Stage, StageContext


class Upscale(Stage):
    """Upscales generated images, with the steps, guidance and sampler of the upscaler's own card."""

    name = "upscale"
    place = Place.DEVICE
    switched_on_by = "rows with `upscale`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the lane's images are generated and then upscaled."""
        return context.lane.upscales_generated

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items upscaled; withheld images are only resized, since a model might restore them."""
        enlarged = iter(self._upscaled([item for item in items if not item.is_withheld]))
        return [repeated(item) if item.is_withheld else next(enlarged) for item in items]

    def _upscaled(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        card = upscaler_card(self.context)
        requests = [
            upscale_request(
                item.job,
                item.image,
                card,
                steps=card.steps,
                guidance_scale=card.guidance_scale,
                sampler=card.sampler,
            )
            for item in items
        ]
        return [
            replace(after, batch_rows=before.batch_rows, upscaler_rows=after.batch_rows)
            for before, after in zip(items, upscaled(self.context, items, requests), strict=True)
        ]


def repeated(item: PipelineItem) -> PipelineItem:
    """Return the item with each pixel repeated four times in width and height."""
    return replace(item, pixels=item.image.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1))
