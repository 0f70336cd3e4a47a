"""Continuous batching: new items enter the model's batch as rows become free."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain

from jobs.errors import LeaseLostError
from models.errors import InterruptedRender, OutOfMemoryError
from worker.bisect import isolated
from worker.health.error_classification import HostFaultError
from worker.item import PipelineItem
from worker.stages.oom_backoff import with_picture
from worker.stages.render_stages import RenderStages, image_request


class _SupplyError(Exception):
    """Wraps an error of the source of items, to tell it from an error of the model."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Generation:
    """Runs the lane's model with its batch kept full."""

    making: RenderStages

    def run(self, items: Iterator[PipelineItem]) -> Generator[list[PipelineItem], None, None]:
        """Yield items with their images as they are finished; further items are requested as rows become free.

        When memory runs out, the items in flight begin again in a smaller batch; on any other error they are generated
        separately from the stream, bisected on failure, so that only the items at fault are returned as ended.
        """
        again: list[PipelineItem] = []
        while True:
            flight: dict[int, PipelineItem] = {}
            try:
                yield from self._stream(chain(again, _marked(items)), flight)
                return
            except _SupplyError as error:
                raise error.error from None
            except (InterruptedRender, LeaseLostError, HostFaultError):
                raise
            except (Exception, SystemExit) as error:
                again = list(flight.values())
                if not again:
                    raise
                if isinstance(error, OutOfMemoryError) and self.making.model_cache.lower_rows(
                    self.making.lane
                ):
                    continue
            yield isolated(self.making.generate, again)
            again = []

    def _stream(
        self, items: Iterator[PipelineItem], flight: dict[int, PipelineItem]
    ) -> Iterator[list[PipelineItem]]:
        making, diffusion = self.making, self.making.lane_models.diffusion
        assert diffusion is not None
        rows = making.model_cache.rows(making.lane)
        requests = (image_request(item.job, item.inputs, making.lane) for item in _noted(items, flight))
        for some in diffusion.stream(
            requests,
            rows=rows,
            on_step=making.on_step,
            whole_every=making.lane.deep_cache,
            decoder=making.lane_models.decoder,
            compile_options=making.model_cache.compile_options(making.lane),
        ):
            yield [with_picture(flight.pop(drawn.number), drawn.picture, rows) for drawn in some]


def _noted(items: Iterator[PipelineItem], flight: dict[int, PipelineItem]) -> Iterator[PipelineItem]:
    for number, item in enumerate(items):
        flight[number] = item
        yield item


def _marked(items: Iterator[PipelineItem]) -> Iterator[PipelineItem]:
    try:
        for item in items:  # noqa: UP028 - `yield from` would close `items` when the stream fails
            yield item
    except (Exception, SystemExit) as error:
        raise _SupplyError(error) from error
