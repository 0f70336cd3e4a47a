"""The upscaling stage, for generated images and for input images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jobs.states import ErrorKind
from models.catalogue.card import Card
from worker.item import PipelineItem, Pixels
from worker.model_cache.lane_models import LaneModels
from worker.stages.oom_backoff import DeviceBatches

if TYPE_CHECKING:
    from models.diffusion.upscaler import UpscaleRequest

FACTOR = 4


@dataclass(frozen=True)
class Enlarging:
    """Upscales images to four times their width and height."""

    lane_models: LaneModels
    batches: DeviceBatches
    on_step: Callable[[int], None]

    def drawn(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Upscale generated images, with the steps, guidance and sampler of the upscaler's own card."""
        card = self._card()
        requests = [
            _request(item, item.picture, card, card.steps, card.guidance_scale, card.sampler)
            for item in items
        ]
        enlarged = self._enlarged(items, requests)
        return [
            replace(after, batch_rows=before.batch_rows, upscaler_rows=after.batch_rows)
            for before, after in zip(items, enlarged, strict=True)
        ]

    def brought(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Upscale input images, all at the lane's size."""
        return self._enlarged(items, [self._own(item, _image(item)) for item in items])

    def brought_as_they_are(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Upscale input images one at a time, each at its own size, within the model's limits."""
        return [self._by_itself(item) for item in items]

    def _by_itself(self, item: PipelineItem) -> PipelineItem:
        card, image = self._card(), _image(item)
        height, width = image.shape[:2]
        if not card.min_size <= min(height, width) <= max(height, width) <= card.max_size:
            text = f"init_image has {width}x{height} pixels; {card.id} enlarges {card.min_size} to {card.max_size}"
            return item.ended(
                ErrorKind.BAD_INPUT, f"{text} a side; give the row a width and height to scale it"
            )
        request = self._own(item, padded_to(image, card.size_multiple))
        (done,) = self._enlarged([item], [request], rows=1)
        if done.pixels is None:
            return done
        return replace(done, pixels=np.ascontiguousarray(done.pixels[: height * FACTOR, : width * FACTOR]))

    def _own(self, item: PipelineItem, pixels: Pixels) -> "UpscaleRequest":
        job = item.job
        return _request(item, pixels, self._card(), job.steps, job.guidance_scale, job.sampler)

    def _enlarged(
        self, items: Sequence[PipelineItem], requests: "Sequence[UpscaleRequest]", rows: int | None = None
    ) -> list[PipelineItem]:
        upscaler = self.lane_models.upscaler
        assert upscaler is not None
        compile_options = self.batches.model_cache.compile_options(self.batches.lane)
        return self.batches.run(
            items,
            lambda shape: upscaler.upscale(
                requests, rows=shape, on_step=self.on_step, compile_options=compile_options
            ),
            rows,
        )

    def _card(self) -> Card:
        assert self.lane_models.upscaler_checkpoint is not None
        return self.lane_models.upscaler_checkpoint.card


def stretched(item: PipelineItem) -> PipelineItem:
    """Return the item with each pixel repeated four times in width and height."""
    return replace(item, pixels=item.picture.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1))


def padded_to(pixels: Pixels, multiple: int) -> Pixels:
    """Pad the image by repeating its right and lower edges until both sides are multiples."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def _image(item: PipelineItem) -> Pixels:
    assert item.inputs.image is not None
    return item.inputs.image


def _request(
    item: PipelineItem, pixels: Pixels, card: Card, steps: int, guidance_scale: float, sampler: str
) -> "UpscaleRequest":
    from models.diffusion.upscaler import UpscaleRequest  # noqa: PLC0415 - imports torch, only needed to render

    job = item.job
    return UpscaleRequest(
        pixels=pixels,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        noise_level=card.noise_level if job.noise_level is None else job.noise_level,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        seed=job.seed,
    )
