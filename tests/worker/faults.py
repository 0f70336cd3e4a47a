"""Parts that fail in known ways, around the real ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from jobs.errors import UsageError
from jobs.job_types import Lane
from models.diffusion.requests import ImageRequest
from models.engine.engine import Drawn
from models.engine.rendered_image import Picture
from models.errors import OutOfMemoryError
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels, Role


@dataclass
class Narrow:
    """A model on a device whose memory takes `limit` images at once; fault injection around the real one."""

    model: Any
    limit: int
    asked: list[int]

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None], **more: int
    ) -> list[Picture]:
        self._ask(rows)
        pictures: list[Picture] = self.model.render(requests, rows=rows, on_step=on_step, **more)
        return pictures

    def stream(
        self, requests: Iterator[ImageRequest], *, rows: int, on_step: Callable[[int], None], **more: int
    ) -> Iterator[list[Drawn]]:
        for first in requests:
            self._ask(rows)
            yield from self.model.stream(chain([first], requests), rows=rows, on_step=on_step, **more)

    def _ask(self, rows: int) -> None:
        self.asked.append(rows)
        if rows > self.limit:
            raise OutOfMemoryError(f"no memory left for {rows} images")


class NarrowModelCache(ModelCache):
    """A studio whose device has little memory."""

    def __init__(self, model_cache: ModelCache, limit: int) -> None:
        super().__init__(model_cache.settings, 0)
        self.real = model_cache
        self.limit = limit
        self.asked: list[int] = []

    def lane_models(self, lane: Lane) -> LaneModels:
        lane_models = self.real.lane_models(lane)
        return replace(lane_models, diffusion=Narrow(lane_models.diffusion, self.limit, self.asked))  # type: ignore[arg-type]


class BrokenModelCache(ModelCache):
    """A studio that fails as no library says that it would, until `broken` is false."""

    def __init__(self, model_cache: ModelCache) -> None:
        super().__init__(model_cache.settings, 0)
        self.real, self.broken, self.tried = model_cache, True, 0

    def lane_models(self, lane: Lane) -> LaneModels:
        self.tried += 1
        if self.broken:
            raise RuntimeError(f"{lane.model}: CUDA error: an illegal memory access was encountered")
        return self.real.lane_models(lane)


class LosingModelCache(ModelCache):
    """A studio in whose shift something goes wrong that no stage answers for."""

    def rows(self, lane: Lane, role: Role = "draw") -> int:
        raise UsageError(f"who would have thought that {lane.model} can't {role}")


class Ringing:
    """A model at whose n-th step something happens."""

    def __init__(self, model: Any, step: int, happen: Callable[[], object], steps: list[int]) -> None:
        self.model = model
        self.step = step
        self.happen = happen
        self.steps = steps

    def stream(
        self, requests: Iterator[ImageRequest], *, rows: int, on_step: Callable[[int], None], **more: int
    ) -> Iterator[list[Drawn]]:
        def stepped(number: int) -> None:
            self.steps.append(number)
            if number == self.step:
                self.happen()
            on_step(number)

        yield from self.model.stream(requests, rows=rows, on_step=stepped, **more)


class RingingModelCache(ModelCache):
    """A studio at whose model's n-th step something happens; `steps` are all that it made."""

    def __init__(
        self, model_cache: ModelCache, step: int, happen: Callable[[], object], steps: list[int] | None = None
    ) -> None:
        super().__init__(model_cache.settings, 0)
        self.real, self.step, self.happen = model_cache, step, happen
        self.steps = [] if steps is None else steps

    def lane_models(self, lane: Lane) -> LaneModels:
        lane_models = self.real.lane_models(lane)
        ringing: Any = Ringing(lane_models.diffusion, self.step, self.happen, self.steps)
        return replace(lane_models, diffusion=ringing)


class PickyModelCache(ModelCache):
    """A studio whose model fails on one prompt, whoever shares the device batch with it."""

    def __init__(self, model_cache: ModelCache, poison: str) -> None:
        super().__init__(model_cache.settings, 0)
        self.real, self.poison = model_cache, poison

    def lane_models(self, lane: Lane) -> LaneModels:
        lane_models = self.real.lane_models(lane)
        picky: Any = Picky(lane_models.diffusion, self.poison)
        return replace(lane_models, diffusion=picky)


@dataclass
class Picky:
    """A model that can't stand one prompt."""

    model: Any
    poison: str

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None], **more: int
    ) -> list[Picture]:
        pictures: list[Picture] = self.model.render(
            list(self._tasted(requests)), rows=rows, on_step=on_step, **more
        )
        return pictures

    def stream(
        self, requests: Iterator[ImageRequest], *, rows: int, on_step: Callable[[int], None], **more: int
    ) -> Iterator[list[Drawn]]:
        yield from self.model.stream(self._tasted(requests), rows=rows, on_step=on_step, **more)

    def _tasted(self, requests: Iterable[ImageRequest]) -> Iterator[ImageRequest]:
        for request in requests:
            if request.prompt == self.poison:
                raise RuntimeError("index out of range in self")
            yield request
