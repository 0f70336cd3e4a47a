"""Runs device batches, in smaller sizes when memory runs out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jobs.job_dataclasses import Lane
from jobs.states import ErrorKind
from models.engine.rendered_image import RenderedImage
from models.errors import OutOfMemoryError
from worker.item import Inputs, PipelineItem
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import Role

_DEFECTS = {
    "nan": (ErrorKind.NOT_FINITE, "the model gave values that are not numbers"),
    "black": (ErrorKind.BLACK, "the model gave a black picture"),
}


@dataclass(frozen=True)
class DeviceBatches:
    """Renders with the batch size that the model cache gives for the lane."""

    model_cache: ModelCache
    lane: Lane
    role: Role = "generate"

    def run(
        self,
        items: Sequence[PipelineItem],
        render: Callable[[int], list[RenderedImage]],
        rows: int | None = None,
    ) -> list[PipelineItem]:
        """Return the items with the images that `render(rows)` returns; `rows` fixes the batch size."""
        images = self._within_memory(render) if rows is None else render(rows)
        shape = rows or self.model_cache.rows(self.lane, self.role)
        return [with_rendered_image(item, image, shape) for item, image in zip(items, images, strict=True)]

    def _within_memory(self, render: Callable[[int], list[RenderedImage]]) -> list[RenderedImage]:
        while True:
            try:
                return render(self.model_cache.rows(self.lane, self.role))
            except OutOfMemoryError:
                if not self.model_cache.lower_rows(self.lane, self.role):
                    raise


def with_rendered_image(item: PipelineItem, image: RenderedImage, rows: int) -> PipelineItem:
    """Return the item with the image generated in a batch of `rows`, or ended if the image is defective."""
    if image.defect is not None:
        return item.ended(*_DEFECTS[image.defect])
    return replace(item, pixels=image.pixels, batch_rows=rows, inputs=Inputs())
