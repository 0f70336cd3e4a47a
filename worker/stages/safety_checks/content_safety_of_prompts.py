"""Content safety of prompts: have them rated by the service over HTTP, and block or flag them by their severities."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.policy.label_thresholds import LABELS, OF_PROMPTS
from jobs.policy.safety_thresholds import reason_of
from jobs.states import WITHHOLDING, ErrorKind
from worker.content_safety_requests import rates_prompts
from worker.item import PipelineItem
from worker.stage import Place, Stage, StageContext


class ContentSafetyOfPrompts(Stage):
    """Has prompts rated by a service; `safety` decides whether a prompt is blocked."""

    name = "content_safety_of_prompts"
    place = Place.DEVICE
    switched_on_by = "`safety_checkers=content-safety-prompts`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the batch has its prompts rated."""
        return rates_prompts(context.lane)

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their severities, ended or flagged where these reach a threshold.

        Raises ContentSafetyError, SafetyUnknownError for a prompt that the service refuses.
        """
        return [self._rated(item) for item in items]

    def _rated(self, item: PipelineItem) -> PipelineItem:
        service, policy = self.context.content_safety, self.context.lane.policy
        assert service is not None
        scores = {LABELS: {OF_PROMPTS: service.prompt(item.job.prompt)}}
        above = policy.checker_thresholds.above(scores)
        item = replace(item, safety_scores=scores)
        if not above:
            return item
        reason = reason_of(above)
        if policy.safety in WITHHOLDING:
            return item.ended(ErrorKind.SAFETY, reason, is_block=True)
        return replace(item, flagged_for=item.flagged_for or reason)
