"""Safety: score every image with the safety checker, and apply the batch's safety action to flagged ones."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.states import ErrorKind, SafetyAction
from worker.item import PipelineItem
from worker.stage import Place, Stage


class Safety(Stage):
    """Checks images; if the checker gives no usable result, the job fails."""

    name = "safety"
    place = Place.BACKGROUND
    uses_model = True

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their scores; flagged ones are blocked, marked, blackened or blurred."""
        checker = self.context.lane_models.safety
        scores = checker.score([item.image for item in items])
        return [
            self._acted_on(
                replace(item, safety_scores={"concepts": score.concepts, "special_care": score.special_care}),
                item.flagged_for or checker.finding(score),
            )
            for item, score in zip(items, scores, strict=True)
        ]

    def _acted_on(self, item: PipelineItem, reason: str | None) -> PipelineItem:
        from models.assess.safety_checker import blacken, blur  # noqa: PLC0415

        if reason is None:
            return item
        item = replace(item, flagged_for=reason)
        match self.context.lane.policy.safety:
            case SafetyAction.BLOCK:
                return item.ended(ErrorKind.SAFETY, reason, is_block=True)
            case SafetyAction.FLAG:
                return replace(item, safety_verdict="flagged")
            case SafetyAction.BLACKEN:
                return replace(item, safety_verdict="blackened", pixels=blacken(item.image))
            case SafetyAction.BLUR:
                return replace(item, safety_verdict="blurred", pixels=blur(item.image))
