"""Frames through the model as its rows come free, in any company."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain

from jobs.errors import LeaseLostError
from models.errors import InterruptedRender, OutOfMemoryError
from worker.bisect import isolated
from worker.health.host_faults import HostFaultError
from worker.item import Frame
from worker.stages.oom_backoff import with_picture
from worker.stages.prepare import Making, image_request


class _SupplyError(Exception):
    """What gives the frames failed, not what draws them."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Drawing:
    """The making's model, kept full."""

    making: Making

    def run(self, frames: Iterator[Frame]) -> Generator[list[Frame], None, None]:
        """The frames with their pictures, some at a time as they are finished; more are asked for as rows come free.

        When memory runs out, those on their way begin again in a smaller batch; whatever else goes wrong, they are
        drawn in halves, so that only those to blame come back ended.
        """
        again: list[Frame] = []
        while True:
            flight: dict[int, Frame] = {}
            try:
                yield from self._stream(chain(again, _marked(frames)), flight)
                return
            except _SupplyError as error:
                raise error.error from None
            except (InterruptedRender, LeaseLostError, HostFaultError):
                raise
            except (Exception, SystemExit) as error:
                again = list(flight.values())
                if not again:
                    raise
                if isinstance(error, OutOfMemoryError) and self.making.studio.lower_rows(self.making.lane):
                    continue
            yield isolated(self.making.generate, again)
            again = []

    def _stream(self, frames: Iterator[Frame], flight: dict[int, Frame]) -> Iterator[list[Frame]]:
        making, diffusion = self.making, self.making.kit.diffusion
        assert diffusion is not None
        rows = making.studio.rows(making.lane)
        requests = (image_request(frame.job, frame.inputs, making.lane) for frame in _noted(frames, flight))
        for some in diffusion.stream(
            requests,
            rows=rows,
            on_step=making.on_step,
            whole_every=making.lane.deep_cache,
            decoder=making.kit.decoder,
            speedup=making.studio.speedup(making.lane),
        ):
            yield [with_picture(flight.pop(drawn.number), drawn.picture, rows) for drawn in some]


def _noted(frames: Iterator[Frame], flight: dict[int, Frame]) -> Iterator[Frame]:
    for number, frame in enumerate(frames):
        flight[number] = frame
        yield frame


def _marked(frames: Iterator[Frame]) -> Iterator[Frame]:
    try:
        for frame in frames:  # noqa: UP028 - `yield from` would end them with the stream that failed
            yield frame
    except (Exception, SystemExit) as error:
        raise _SupplyError(error) from error
