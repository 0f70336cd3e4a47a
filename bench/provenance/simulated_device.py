"""A stand-in for a device: pictures with the grain of photographs, each after the time that a quick GPU takes."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.image_files import grainy
from worker.item import PipelineItem
from worker.stage import ImageStage, Place, Renderer, StageContext

DEVICE_S = 0.1
"""Seconds an image. An H200 takes 0.2 at 50 steps of Stable Diffusion 1.5."""
_AT_ONCE = 8


class PacedDevice(ImageStage):
    """Renders nothing: pictures of the lane's size, one after the other."""

    name = "generate"
    place = Place.DEVICE

    def __init__(self, context: StageContext) -> None:
        super().__init__(context)
        self._waiting: list[PipelineItem] = []
        self._pixels = grainy(context.lane.width)

    def renderer(self) -> Renderer:
        """Return the stage itself."""
        return self

    @property
    def is_empty(self) -> bool:
        """Whether no item is in progress."""
        return not self._waiting

    @property
    def is_denoising(self) -> bool:
        """Whether any item has steps left."""
        return bool(self._waiting)

    def has_room(self) -> bool:
        """Return whether a further item may be added."""
        return len(self._waiting) < _AT_ONCE

    def add(self, item: PipelineItem) -> None:
        """Take an item."""
        self._waiting.append(item)

    def step(self) -> list[PipelineItem]:
        """Finish the first item."""
        return self.run([self._waiting.pop(0)])

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with pictures that differ from job to job."""
        return [self._drawn(item) for item in items]

    def _drawn(self, item: PipelineItem) -> PipelineItem:
        time.sleep(DEVICE_S)
        pixels = np.roll(self._pixels, item.job.ordinal % len(self._pixels), axis=0)
        return replace(item, pixels=pixels, batch_rows=1)

    def close(self) -> None:
        """Drop what is in progress."""
        self._waiting.clear()
