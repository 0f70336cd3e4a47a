"""Content safety of images: have them rated by the service over HTTP, as they are delivered."""

from collections.abc import Sequence

from jobs.errors import ContentRefusedError
from jobs.policy.safety_label_thresholds import LABELS, OF_IMAGES
from models.errors import SafetyUnknownError
from worker.bisect import ended
from worker.content_safety_requests import Ratings, rates_images
from worker.imaging.jpeg_for_content_safety import jpeg_for_content_safety
from worker.item import PipelineItem
from worker.stage import StageContext
from worker.stages.safety_checks.safety_check_base_classes import SafetyCheck


class ContentSafetyOfImages(SafetyCheck):
    """Has images rated by a service, and retries while it is unavailable; when it gives up, the jobs are released."""

    name = "content_safety_of_images"
    switched_on_by = "`safety_checkers=content-safety`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the batch has its images rated."""
        return rates_images(context.lane)

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their severities, flagged ones as in `SafetyCheck`; what was withheld as it was.

        What goes to quarantine isn't sent either: `judge` has it rendered again, and rated, once it is freed. What the
        service refuses is returned as ended.
        """
        kept = [item for item in items if item.is_withheld or item.is_quarantined]
        sent = [item for item in items if not (item.is_withheld or item.is_quarantined)]
        return kept + (self._rated(sent) if sent else [])

    def _rated(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        service, lane = self.context.content_safety, self.context.lane
        assert service is not None
        ratings = service.images([jpeg_for_content_safety(item.image) for item in items])
        return self.context.service_retry.rated(lane, items, lambda: self._by(ratings, items))

    def _by(self, ratings: Ratings[bytes], items: Sequence[PipelineItem]) -> list[PipelineItem]:
        return [
            ended(item, SafetyUnknownError(str(found)))
            if isinstance(found, ContentRefusedError)
            else self.scored(item, {LABELS: {OF_IMAGES: found}})
            for item, found in zip(items, ratings.get(), strict=True)
        ]
