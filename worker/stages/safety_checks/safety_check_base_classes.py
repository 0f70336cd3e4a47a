"""What the stages have in common that check images: scores, and the batch's safety action on flagged images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.policy.safety_label_thresholds import LABELS
from jobs.policy.safety_thresholds import CARE, CONCEPT, CONCEPTS, SPECIAL_CARE, higher_scores, reason_of
from jobs.states import ErrorKind, SafetyAction
from models.errors import SafetyUnknownError
from worker.health.error_classification import HostFaultError
from worker.item import PipelineItem
from worker.stage import Place, Stage

if TYPE_CHECKING:
    from models.assess.safety_checker import SafetyScores

CheckerLabels = Mapping[str, Mapping[str, float]]
Scores = dict[str, Any]
"""As image rows have them: `concepts` and `special_care`, and in `labels` for each further checker a score a label."""


class SafetyCheck(Stage):
    """Scores images; flagged ones are blocked, marked, blackened or blurred. A subclass says which scores."""

    place = Place.BACKGROUND

    def scored(self, item: PipelineItem, scores: Scores) -> PipelineItem:
        """Return the item with its scores; a flagged one is blocked, marked, blackened or blurred.

        Of an image that has scores already, the higher ones are kept and decide: `judge` has no others.
        Those that go to quarantine pass the other stages on this host, too, so that `judge` can free them as they are.
        """
        scores = merged(item.safety_scores, scores)
        reason = item.flagged_for or self._finding(scores)
        return self._acted_on(replace(item, safety_scores=scores), reason)

    def _finding(self, scores: Scores) -> str | None:
        above = self.context.lane.policy.checker_thresholds.above(scores)
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


class ModelSafetyCheck(SafetyCheck):
    """Scores by the models on the device: the safety checker, and the batch's classifiers."""

    uses_model = True

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with the scores of all models; flagged ones are blocked, marked, blackened or blurred.

        Raises SafetyUnknownError if an image has no scores, or others than a finite one of each concept and label;
        HostFaultError if a classifier has other labels than the batch names.
        """
        return [self.scored(item, scores) for item, scores in zip(items, self._scores(items), strict=True)]

    def _scores(self, items: Sequence[PipelineItem]) -> list[Scores]:
        models, images = self.context.lane_models, [item.image for item in items]
        found = [
            _usable(each) for each in _one_each(models.safety.score(images), images, "the safety checker")
        ]
        for classifier in models.classifiers:
            rated = _one_each(classifier.score(images), images, classifier.name)
            for scores, labels in zip(found, rated, strict=True):
                self._require(classifier.name, labels)
                scores.setdefault(LABELS, {})[classifier.name] = labels
        return found

    def _require(self, classifier: str, labels: Mapping[str, float]) -> None:
        _require_finite(labels.values(), classifier)
        wanted = self.context.lane.policy.checker_thresholds.labels[classifier]
        if lacking := wanted.keys() - labels.keys():
            raise HostFaultError(
                f"{classifier} gives no score for {', '.join(sorted(lacking))}, which the batch asks for"
            )


def merged(before: Scores | None, now: Scores) -> Scores:
    """Return both; of what both have, the higher score of each concept and label."""
    if before is None:
        return now
    found = dict(before) | dict(now)
    if CONCEPT in before and CONCEPT in now:
        found |= higher_scores(before, now)
    if LABELS in before and LABELS in now:
        found[LABELS] = _higher_labels(before[LABELS], now[LABELS])
    return found


def _higher_labels(before: CheckerLabels, now: CheckerLabels) -> dict[str, dict[str, float]]:
    return {
        checker: _higher(before.get(checker, {}), now.get(checker, {}))
        for checker in before.keys() | now.keys()
    }


def _higher(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {
        label: max(score[label] for score in (before, now) if label in score)
        for label in before.keys() | now.keys()
    }


def _one_each(found: Sequence[Any], images: Sequence[object], checker: str) -> Sequence[Any]:
    if len(found) != len(images):
        raise SafetyUnknownError(f"{checker} returned {len(found)} results for {len(images)} images")
    return found


def _usable(found: "SafetyScores") -> Scores:
    """Return the scores as image rows have them; raises SafetyUnknownError if any is missing or not finite."""
    counts = len(found.concepts), len(found.special_care)
    if counts != (CONCEPTS, SPECIAL_CARE):
        raise SafetyUnknownError(
            f"the safety checker returned scores of {counts[0]} concepts and {counts[1]} of special care; "
            f"there are {CONCEPTS} and {SPECIAL_CARE}"
        )
    _require_finite((*found.concepts, *found.special_care), "the safety checker")
    return {CONCEPT: found.concepts, CARE: found.special_care}


def _require_finite(scores: Iterable[float], checker: str) -> None:
    if not all(map(math.isfinite, scores)):
        raise SafetyUnknownError(f"{checker} returned scores that are not finite")
