"""Run a stage on whole groups of items, with the interface of a stage that is continuously filled."""

from worker.bisect import run_stage
from worker.item import PipelineItem
from worker.stage import Stage


class Grouped:
    """Collects a device batch of items; a step runs the stage on all of them."""

    is_denoising = True

    def __init__(self, stage: Stage, rows: int) -> None:
        self._stage, self._rows = stage, rows
        self._items: list[PipelineItem] = []

    @property
    def is_empty(self) -> bool:
        """Whether no item is in progress."""
        return not self._items

    def has_room(self) -> bool:
        """Return whether a further item could begin at the next step."""
        return len(self._items) < self._rows

    def add(self, item: PipelineItem) -> None:
        """Take an item."""
        self._items.append(item)

    def step(self) -> list[PipelineItem]:
        """Run the stage on the items taken, and return them finished or ended."""
        items, self._items = self._items, []
        return run_stage(self._stage.name, self._stage.run, items)

    def close(self) -> None:
        """Drop what is in progress."""
        self._items.clear()
