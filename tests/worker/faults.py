"""Parts that fail in known ways, around the real ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.errors import UsageError
from jobs.job import Lane
from models.errors import OutOfMemoryError
from models.picture import Picture
from models.stable_diffusion import ImageRequest
from worker.studio import Kit, Studio


@dataclass
class Narrow:
    """A model on a device whose memory takes `limit` images at once; fault injection around the real one."""

    model: Any
    limit: int
    asked: list[int]

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None]
    ) -> list[Picture]:
        self.asked.append(rows)
        if rows > self.limit:
            raise OutOfMemoryError(f"no memory left for {rows} images")
        pictures: list[Picture] = self.model.render(requests, rows=rows, on_step=on_step)
        return pictures


class NarrowStudio(Studio):
    """A studio whose device has little memory."""

    def __init__(self, studio: Studio, limit: int) -> None:
        super().__init__(studio.settings, 0)
        self.real = studio
        self.limit = limit
        self.asked: list[int] = []

    def kit(self, lane: Lane) -> Kit:
        kit = self.real.kit(lane)
        return replace(kit, diffusion=Narrow(kit.diffusion, self.limit, self.asked))  # type: ignore[arg-type]


class BrokenStudio(Studio):
    """A studio that fails as no library says that it would."""

    def kit(self, lane: Lane) -> Kit:
        raise RuntimeError(f"{lane.model}: CUDA error: an illegal memory access was encountered")


class LosingStudio(Studio):
    """A studio in whose shift something goes wrong that no stage answers for."""

    def rows(self, lane: Lane) -> int:
        raise UsageError(f"who would have thought that of {lane.model}")


class Ringing:
    """A model at whose n-th step something happens."""

    def __init__(self, model: Any, step: int, happen: Callable[[], object]) -> None:
        self.model = model
        self.step = step
        self.happen = happen

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None]
    ) -> list[Picture]:
        def stepped(number: int) -> None:
            if number == self.step:
                self.happen()
            on_step(number)

        pictures: list[Picture] = self.model.render(requests, rows=rows, on_step=stepped)
        return pictures


class RingingStudio(Studio):
    def __init__(self, studio: Studio, step: int, happen: Callable[[], object]) -> None:
        super().__init__(studio.settings, 0)
        self.real, self.step, self.happen = studio, step, happen

    def kit(self, lane: Lane) -> Kit:
        kit = self.real.kit(lane)
        ringing: Any = Ringing(kit.diffusion, self.step, self.happen)
        return replace(kit, diffusion=ringing)


class PickyStudio(Studio):
    """A studio whose model fails on one prompt, whoever shares the device batch with it."""

    def __init__(self, studio: Studio, poison: str) -> None:
        super().__init__(studio.settings, 0)
        self.real, self.poison = studio, poison

    def kit(self, lane: Lane) -> Kit:
        kit = self.real.kit(lane)
        picky: Any = Picky(kit.diffusion, self.poison)
        return replace(kit, diffusion=picky)


@dataclass
class Picky:
    """A model that can't stand one prompt."""

    model: Any
    poison: str

    def render(
        self, requests: Sequence[ImageRequest], *, rows: int, on_step: Callable[[int], None]
    ) -> list[Picture]:
        if any(request.prompt == self.poison for request in requests):
            raise RuntimeError("index out of range in self")
        pictures: list[Picture] = self.model.render(requests, rows=rows, on_step=on_step)
        return pictures
