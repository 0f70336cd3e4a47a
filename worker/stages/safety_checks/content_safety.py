"""Content safety: have images rated by the service over HTTP, as they are delivered."""

from collections.abc import Sequence

from jobs.policy.label_thresholds import LABELS, OF_IMAGES
from worker.content_safety_requests import rates_images
from worker.item import PipelineItem
from worker.stage import StageContext
from worker.stages.safety_checks.safety_check_stage import SafetyCheck, Scores


class ContentSafety(SafetyCheck):
    """Has images rated by a service, and retries while it is unavailable; when it gives up, the jobs are released."""

    name = "content_safety"
    switched_on_by = "`safety_checkers=content-safety`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the batch has its images rated."""
        return rates_images(context.lane)

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their severities, flagged ones as in `SafetyCheck`; what was withheld as it was."""
        withheld = [item for item in items if item.is_withheld]
        shown = [item for item in items if not item.is_withheld]
        context, rate = self.context, super().run
        return withheld + (
            context.service_retry.rated(context.lane, shown, lambda: rate(shown)) if shown else []
        )

    def scores(self, items: Sequence[PipelineItem]) -> list[Scores]:
        """Return the severities. Raises SafetyUnknownError for images that are refused, ContentSafetyError."""
        service = self.context.content_safety
        assert service is not None
        return [{LABELS: {OF_IMAGES: rated}} for rated in service.images([item.image for item in items])]
