"""Parts that fail in known ways, around the real ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jobs.errors import UsageError
from jobs.job_dataclasses import Lane
from models.diffusion.requests import ImageRequest
from models.engine.denoising_slots import LatentShape
from models.engine.rendered_image import RenderedImage
from models.errors import OutOfMemoryError
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels, Role


class Around:
    """A model that is the given one but for what a subclass changes."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class Narrow(Around):
    """A model on a device whose memory takes `limit` images at once; fault injection around the real one."""

    def __init__(self, model: Any, limit: int, asked: list[int]) -> None:
        super().__init__(model)
        self.limit, self.asked = limit, asked

    def render(self, requests: Sequence[ImageRequest], *, rows: int, **how: Any) -> list[RenderedImage]:
        self._ask(rows)
        pictures: list[RenderedImage] = self.model.render(requests, rows=rows, **how)
        return pictures

    def engine(self, shape: LatentShape, *, rows: int, **how: Any) -> Any:
        self._ask(rows)
        return self.model.engine(shape, rows=rows, **how)

    def _ask(self, rows: int) -> None:
        self.asked.append(rows)
        if rows > self.limit:
            raise OutOfMemoryError(f"no memory left for {rows} images")


class NarrowModelCache(ModelCache):
    """A model cache whose device has little memory."""

    def __init__(self, model_cache: ModelCache, limit: int) -> None:
        super().__init__(model_cache.settings, 0)
        self.real = model_cache
        self.limit = limit
        self.asked: list[int] = []

    def lane_models(self, lane: Lane) -> LaneModels:
        lane_models = self.real.lane_models(lane)
        return replace(lane_models, diffusion=Narrow(lane_models.diffusion, self.limit, self.asked))  # type: ignore[arg-type]


class BrokenModelCache(ModelCache):
    """A model cache that fails with an error that no library documents, until `broken` is false."""

    def __init__(self, model_cache: ModelCache) -> None:
        super().__init__(model_cache.settings, 0)
        self.real, self.broken, self.tried = model_cache, True, 0

    def lane_models(self, lane: Lane) -> LaneModels:
        self.tried += 1
        if self.broken:
            raise RuntimeError(f"{lane.model}: CUDA error: an illegal memory access was encountered")
        return self.real.lane_models(lane)


class LosingModelCache(ModelCache):
    """A model cache whose error ends the lane session, because no stage handles it."""

    def rows(self, lane: Lane, role: Role = "generate") -> int:
        raise UsageError(f"who would have thought that {lane.model} can't {role}")


class Ringing(Around):
    """A model at whose n-th step something happens."""

    def __init__(self, model: Any, step: int, happen: Callable[[], object], steps: list[int]) -> None:
        super().__init__(model)
        self.at, self.happen, self.steps = step, happen, steps

    def engine(self, *given: Any, **how: Any) -> Any:
        return RingingEngine(self.model.engine(*given, **how), self)


class RingingEngine(Around):
    """Its engine."""

    def __init__(self, model: Any, ringing: Ringing) -> None:
        super().__init__(model)
        self.ringing, self.number = ringing, 0

    def step(self) -> Any:
        if self.model.is_denoising:
            self.ringing.steps.append(self.number)
            if self.number == self.ringing.at:
                self.ringing.happen()
            self.number += 1
        return self.model.step()


class RingingModelCache(ModelCache):
    """A model cache at whose model's n-th step something happens; `steps` are all that it made."""

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
    """A model cache whose model fails on one prompt, whatever shares the device batch with it."""

    def __init__(self, model_cache: ModelCache, poison: str) -> None:
        super().__init__(model_cache.settings, 0)
        self.real, self.poison = model_cache, poison

    def lane_models(self, lane: Lane) -> LaneModels:
        lane_models = self.real.lane_models(lane)
        picky: Any = Picky(lane_models.diffusion, self.poison)
        return replace(lane_models, diffusion=picky)


class Picky(Around):
    """A model that can't stand one prompt."""

    def __init__(self, model: Any, poison: str) -> None:
        super().__init__(model)
        self.poison = poison

    def render(self, requests: Sequence[ImageRequest], **how: Any) -> list[RenderedImage]:
        for request in requests:
            self.taste(request)
        pictures: list[RenderedImage] = self.model.render(requests, **how)
        return pictures

    def engine(self, *given: Any, **how: Any) -> Any:
        return PickyEngine(self.model.engine(*given, **how), self)

    def taste(self, request: ImageRequest) -> None:
        if request.prompt == self.poison:
            raise RuntimeError("index out of range in self")


class PickyEngine(Around):
    """Its engine: the step in which a request begins fails."""

    def __init__(self, model: Any, picky: Picky) -> None:
        super().__init__(model)
        self.picky, self.added = picky, list[ImageRequest]()

    def add(self, key: object, request: ImageRequest) -> None:
        self.added.append(request)
        self.model.add(key, request)

    def step(self) -> Any:
        added, self.added = self.added, []
        try:
            for request in added:
                self.picky.taste(request)
        except RuntimeError:
            self.model.close()
            raise
        return self.model.step()


class Unopened(Around):
    """A model whose engine can't be opened; groups of its own render as ever, unless `renders` is false."""

    def __init__(self, model: Any, *, renders: bool) -> None:
        super().__init__(model)
        self.renders = renders

    def engine(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def render(self, requests: Sequence[ImageRequest], **how: Any) -> list[RenderedImage]:
        if not self.renders:
            self.engine()
        images: list[RenderedImage] = self.model.render(requests, **how)
        return images


class UnopenedModelCache(ModelCache):
    """A model cache whose models' engines can't be opened."""

    def __init__(self, model_cache: ModelCache, *, renders: bool) -> None:
        super().__init__(model_cache.settings, 0)
        self.real, self.renders = model_cache, renders

    def lane_models(self, lane: Lane) -> LaneModels:
        lane_models = self.real.lane_models(lane)
        unopened: Any = Unopened(lane_models.diffusion, renders=self.renders)
        return replace(lane_models, diffusion=unopened)
