"""Pictures are judged beside the drawing of the next ones, a bundle at a time."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.job_dataclasses import Lane
from models.assess.safety_checker import SafetyScores
from models.engine.engine import Rendered
from tests.factories import states
from tests.worker.contexts import render
from tests.worker.faults import Around
from worker.item import Pixels
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache
from worker.model_cache.lane_models import LaneModels


class Watched(ModelCache):
    """The real models; the checker waits, the first time, until other pictures have been drawn."""

    def __init__(self, model_cache: ModelCache) -> None:
        super().__init__(model_cache.settings, 0)
        self._real = model_cache
        self._alone = threading.Lock()
        self.more_is_drawn = threading.Event()
        self.bundles = 0
        self.waited_for: list[bool] = []
        self.met_another = False
        self.digest = None

    def lane_models(self, lane: Lane) -> LaneModels:
        self._models = self._real.lane_models(lane)
        diffusion: Any = Around(self._models.diffusion)
        diffusion.engine = self.engine
        return replace(self._models, diffusion=diffusion, safety=self)  # type: ignore[arg-type]

    def engine(self, *given: Any, **how: Any) -> Any:
        """As the model's."""
        assert self._models.diffusion is not None
        engine: Any = self._models.diffusion.engine(*given, **how)
        step = engine.step

        def stepped() -> list[Rendered]:
            rendered: list[Rendered] = step()
            self.bundles += bool(rendered)
            if self.bundles > 1:
                self.more_is_drawn.set()
            return rendered

        engine.step = stepped
        return engine

    def score(self, images: Sequence[Pixels]) -> list[SafetyScores]:
        """As the checker's."""
        self.met_another |= not self._alone.acquire(blocking=False)
        self.waited_for.append(self.more_is_drawn.wait(30))
        time.sleep(0.05)
        scores = self._models.safety.score(images)
        self._alone.release()
        return scores

    @property
    def concept_names(self) -> tuple[str, ...]:
        """As the checker's."""
        return self._models.safety.concept_names


def test_the_model_draws_on_meanwhile(context: WorkerContext, tmp_path: Path) -> None:
    model_cache = Watched(context.model_cache)
    rows = [{"prompt": "a red fox", "steps": 2, "seed": seed} for seed in range(16)]
    render(replace(context, model_cache=model_cache), tmp_path, rows)
    assert states(context.engine) == {"done": 16}
    assert model_cache.bundles == len(model_cache.waited_for) == 4
    assert all(model_cache.waited_for)
    assert not model_cache.met_another
