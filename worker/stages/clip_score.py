"""CLIP score: measure how well images match their prompts."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jobs.states import Scoring
from models.errors import ModelError
from worker.item import PipelineItem
from worker.stage import Place, Stage, StageContext

log = logging.getLogger(__name__)


class ClipScore(Stage):
    """Scores images that have a prompt and aren't withheld; errors fail jobs only if the batch requires scores."""

    name = "clip_score"
    place = Place.BACKGROUND
    switched_on_by = "`clip_score`, where the model's card names a CLIP model"
    uses_model = True

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the lane has a CLIP model."""
        return context.lane_models.clip is not None

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their scores in `quality`."""
        shown = [item for item in items if _has_a_score(item)]
        try:
            scores = self._scores(shown)
        except ModelError as error:
            if self.context.lane.policy.clip_score == Scoring.ON:
                raise
            log.warning("no CLIP score for %d images: %s", len(shown), error)
            return list(items)
        return [replace(item, quality=next(scores)) if _has_a_score(item) else item for item in items]

    def _scores(self, items: Sequence[PipelineItem]) -> Iterator[dict[str, object]]:
        clip = self.context.lane_models.clip
        assert clip is not None
        scores = clip.scorer.score([item.image for item in items], [item.job.prompt for item in items])
        return iter([{"clip_score": round(score, 4), "clip_model": clip.model} for score in scores])


def _has_a_score(item: PipelineItem) -> bool:
    return not item.is_withheld and bool(item.job.prompt)
