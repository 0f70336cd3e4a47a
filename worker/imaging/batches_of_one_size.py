"""Group items by the size of their images."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from worker.item import PipelineItem

_PIXELS = 1 << 22
"""The most pixels in one batch: more is no faster, and takes memory."""


def batches_of_one_size(items: Sequence[PipelineItem]) -> Iterator[list[PipelineItem]]:
    """Yield batches of items whose images have one size, limited in their total pixels."""
    alike = defaultdict(list)
    for item in items:
        alike[item.image.shape].append(item)
    for (height, width, _), group in alike.items():
        size = max(1, _PIXELS // (height * width))
        yield from (group[start : start + size] for start in range(0, len(group), size))
