"""What the stages have in common that check images: scores, and the batch's safety action on flagged images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.policy.safety_thresholds import CARE, CONCEPT, CONCEPTS, SPECIAL_CARE, reason_of
from jobs.states import ErrorKind, SafetyAction
from models.errors import SafetyUnknownError
from worker.item import PipelineItem
from worker.stage import Place, Stage

if TYPE_CHECKING:
    from models.assess.safety_checker import SafetyScores


class SafetyCheck(Stage):
    """Checks images; if the checker gives no usable result, the job fails."""

    place = Place.BACKGROUND
    uses_model = True

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their scores; flagged ones are blocked, marked, blackened or blurred.

        Of an image that has scores already, the higher ones are kept: `judge` goes by what was worst.
        Those that go to quarantine pass the other stages, too, so that nothing is left to do when they are freed.
        Raises SafetyUnknownError if an image has no scores, or others than a finite one of each concept.
        """
        found = self.context.lane_models.safety.score([item.image for item in items])
        if len(found) != len(items):
            raise SafetyUnknownError(
                f"the safety checker returned {len(found)} results for {len(items)} images"
            )
        scores = [_usable(each) for each in found]
        return [
            self._acted_on(
                replace(item, safety_scores=_highest(item.safety_scores, of_item)),
                item.flagged_for or self._finding(of_item),
            )
            for item, of_item in zip(items, scores, strict=True)
        ]

    def _finding(self, scores: Mapping[str, Sequence[float]]) -> str | None:
        above = self.context.lane.policy.score_adjustments.above(scores)
        return reason_of(above, self.context.lane_models.safety.concept_names) if above else None

    def _acted_on(self, item: PipelineItem, reason: str | None) -> PipelineItem:
        from models.assess.safety_checker import blacken, blur  # noqa: PLC0415

        if reason is None:
            return item
        item = replace(item, flagged_for=reason)
        match self.context.lane.policy.safety:
            case SafetyAction.BLOCK:
                return item.ended(ErrorKind.SAFETY, reason, is_block=True)
            case SafetyAction.QUARANTINE:
                return replace(item, safety_verdict="flagged", is_quarantined=True)
            case SafetyAction.FLAG:
                return replace(item, safety_verdict="flagged")
            case SafetyAction.BLACKEN:
                return replace(item, safety_verdict="blackened", pixels=blacken(item.image))
            case SafetyAction.BLUR:
                return replace(item, safety_verdict="blurred", pixels=blur(item.image))


def _highest(
    before: Mapping[str, Sequence[float]] | None, now: dict[str, tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    if before is None:
        return now
    return {name: tuple(map(max, before[name], scores)) for name, scores in now.items()}


def _usable(found: "SafetyScores") -> dict[str, tuple[float, ...]]:
    """Return the scores as image rows have them; raises SafetyUnknownError if any is missing or not finite."""
    counts = len(found.concepts), len(found.special_care)
    if counts != (CONCEPTS, SPECIAL_CARE):
        raise SafetyUnknownError(
            f"the safety checker returned scores of {counts[0]} concepts and {counts[1]} of special care; "
            f"there are {CONCEPTS} and {SPECIAL_CARE}"
        )
    if not all(map(math.isfinite, (*found.concepts, *found.special_care))):
        raise SafetyUnknownError("the safety checker returned scores that are not finite")
    return {CONCEPT: found.concepts, CARE: found.special_care}
