"""Pictures are judged beside the drawing of the next ones, a bundle at a time."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.job import Lane
from models.assess.safety_checker import SafetyScores
from models.engine.engine import Drawn
from tests.factories import states
from tests.worker.desk import render
from worker.item import Pixels
from worker.lanes.session import Desk
from worker.model_cache.cache import Studio
from worker.model_cache.lane_models import Kit


class Watched(Studio):
    """The real models; the checker waits, the first time, until other pictures have been drawn."""

    def __init__(self, studio: Studio) -> None:
        super().__init__(studio.settings, 0)
        self._real = studio
        self._alone = threading.Lock()
        self.more_is_drawn = threading.Event()
        self.bundles = 0
        self.waited_for: list[bool] = []
        self.met_another = False

    def kit(self, lane: Lane) -> Kit:
        self._kit = self._real.kit(lane)
        return replace(self._kit, diffusion=self, safety=self)  # type: ignore[arg-type]

    def stream(self, requests: Any, **how: Any) -> Iterator[list[Drawn]]:
        """As the model's."""
        assert self._kit.diffusion is not None
        for drawn in self._kit.diffusion.stream(requests, **how):
            self.bundles += 1
            if self.bundles > 1:
                self.more_is_drawn.set()
            yield drawn

    def score(self, images: Sequence[Pixels]) -> list[SafetyScores]:
        """As the checker's."""
        self.met_another |= not self._alone.acquire(blocking=False)
        self.waited_for.append(self.more_is_drawn.wait(30))
        time.sleep(0.05)
        scores = self._kit.safety.score(images)
        self._alone.release()
        return scores


def test_the_model_draws_on_meanwhile(desk: Desk, tmp_path: Path) -> None:
    studio = Watched(desk.studio)
    rows = [{"prompt": "a red fox", "steps": 2, "seed": seed} for seed in range(16)]
    render(replace(desk, studio=studio), tmp_path, rows)
    assert states(desk.engine) == {"done": 16}
    assert studio.bundles == len(studio.waited_for) == 4
    assert all(studio.waited_for)
    assert not studio.met_another
