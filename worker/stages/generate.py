"""Frames through the model as its rows come free, in any company."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain

from jobs.errors import LeaseLostError
from models.errors import InterruptedRender, OutOfMemoryError
from worker.bisect import isolated
from worker.health.host_faults import HostFaultError
from worker.item import PipelineItem
from worker.stages.oom_backoff import with_picture
from worker.stages.prepare import RenderStages, image_request


class _SupplyError(Exception):
    """What gives the frames failed, not what draws them."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Generation:
    """The making's model, kept full."""

    making: RenderStages

    def run(self, items: Iterator[PipelineItem]) -> Generator[list[PipelineItem], None, None]:
        """The frames with their pictures, some at a time as they are finished; more are asked for as rows come free.

        When memory runs out, those on their way begin again in a smaller batch; whatever else goes wrong, they are
        drawn in halves, so that only those to blame come back ended.
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
        for item in items:  # noqa: UP028 - `yield from` would end them with the stream that failed
            yield item
    except (Exception, SystemExit) as error:
        raise _SupplyError(error) from error
