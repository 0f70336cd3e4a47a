"""The stages that assess generated images: the safety check and the CLIP score."""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobs.job_types import Lane
from jobs.states import ErrorKind, SafetyAction, Scoring
from models.errors import ModelError
from worker.bisect import Stage, aside
from worker.item import PipelineItem
from worker.model_cache.lane_models import LaneModels

if TYPE_CHECKING:
    from models.assess.safety_checker import SafetyScores

log = logging.getLogger(__name__)

_WITHHELD = ("blackened", "blurred")


@dataclass(frozen=True)
class AssessStages:
    """The stages that run checking models on a lane's images; thread-safe, one thread runs a stage at a time."""

    lane_models: LaneModels
    lane: Lane
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def stages(self) -> list[tuple[str, Stage]]:
        """Return the stages in order; the CLIP score only if there is a CLIP model."""
        score: list[tuple[str, Stage]] = [("clip_score", self._serialised(self.score))]
        return [("safety", self._serialised(self.check_safety)), *(score if self.lane_models.clip else [])]

    def check_safety(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Score every image and apply the safety action to flagged ones; if the checker fails, the job fails."""
        scores = self.lane_models.safety.score([item.picture for item in items])
        return [
            self._act(
                replace(item, safety_scores={"concepts": score.concepts, "special_care": score.special_care}),
                item.flagged_for or _finding(score),
            )
            for item, score in zip(items, scores, strict=True)
        ]

    def score(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Score how well images match their prompts, where there are any; errors fail jobs only if scores are on."""
        shown = [item for item in items if _has_a_score(item)]
        try:
            scores = self._scores(shown)
        except ModelError as error:
            if self.lane.clip_score == Scoring.ON:
                raise
            log.warning("no CLIP score for %d pictures: %s", len(shown), error)
            return list(items)
        return [replace(item, quality=next(scores)) if _has_a_score(item) else item for item in items]

    def _serialised(self, stage: Stage) -> Stage:
        """Serialise the stage by a lock; the time spent waiting for the lock isn't counted as the stage's."""

        def serialised(items: Sequence[PipelineItem]) -> list[PipelineItem]:
            with aside():
                self._turn.acquire()
            try:
                return stage(items)
            finally:
                self._turn.release()

        return serialised

    def _scores(self, items: Sequence[PipelineItem]) -> Iterator[dict[str, object]]:
        clip = self.lane_models.clip
        assert clip is not None
        scores = clip.scorer.score([item.picture for item in items], [item.job.prompt for item in items])
        return iter([{"clip_score": round(score, 4), "clip_model": clip.model} for score in scores])

    def _act(self, item: PipelineItem, reason: str | None) -> PipelineItem:
        from models.assess.safety_checker import blacken, blur  # noqa: PLC0415

        if reason is None:
            return item
        item = replace(item, flagged_for=reason)
        match SafetyAction(self.lane.safety):
            case SafetyAction.BLOCK:
                return item.ended(ErrorKind.SAFETY, reason, is_block=True)
            case SafetyAction.FLAG:
                return replace(item, safety_verdict="flagged")
            case SafetyAction.BLACKEN:
                return replace(item, safety_verdict="blackened", pixels=blacken(item.picture))
            case SafetyAction.BLUR:
                return replace(item, safety_verdict="blurred", pixels=blur(item.picture))


def is_withheld(item: PipelineItem) -> bool:
    """Whether the image was blackened or blurred."""
    return item.safety_verdict in _WITHHELD


def _has_a_score(item: PipelineItem) -> bool:
    return not is_withheld(item) and bool(item.job.prompt)


def _finding(score: "SafetyScores") -> str | None:
    if not score.flagged:
        return None
    above = (f"{number} at {value:+.3f}" for number, value in enumerate(score.concepts) if value > 0)
    return f"safety checker: concept {', '.join(above)}"
