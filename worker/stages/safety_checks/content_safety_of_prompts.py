"""Content safety of prompts: have them rated by the service over HTTP, and block or flag them by their severities."""

import time
from collections.abc import Sequence
from dataclasses import replace

from jobs.errors import ContentRefusedError
from jobs.policy.safety_label_thresholds import LABELS, OF_PROMPTS
from jobs.policy.safety_thresholds import reason_of
from jobs.states import WITHHOLDING, ErrorKind
from models.errors import SafetyUnknownError
from worker.bisect import ended
from worker.content_safety_requests import Ratings, rates_prompts
from worker.item import PipelineItem
from worker.stage import Place, Stage, StageContext

_LOOK_S = 0.2


class ContentSafetyOfPrompts(Stage):
    """Has prompts rated by a service; `safety` decides whether a prompt is blocked."""

    name = "content_safety_of_prompts"
    place = Place.DEVICE
    is_one_at_a_time = True
    switched_on_by = "`safety_checkers=content-safety-prompts`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the batch has its prompts rated."""
        return rates_prompts(context.lane)

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their severities, ended or flagged where these reach a threshold.

        While the service is unavailable it is waited for; when it is given up, the jobs are released, and no item is
        returned. Raises InterruptedRender if the worker is to stop meanwhile.
        """
        return [rated for item in items for rated in self._rated(item)]

    def _rated(self, item: PipelineItem) -> list[PipelineItem]:
        service = self.context.content_safety
        assert service is not None
        rating = service.prompt(item.job.prompt, self._look)
        return self.context.service_retry.rated(
            self.context.lane, [item], lambda: [self._by(rating, item)], self._pause
        )

    def _by(self, rating: Ratings[str], item: PipelineItem) -> PipelineItem:
        (found,) = rating.get()
        if isinstance(found, ContentRefusedError):
            return ended(item, SafetyUnknownError(str(found)))
        scores, policy = {LABELS: {OF_PROMPTS: found}}, self.context.lane.policy
        item, above = replace(item, safety_scores=scores), policy.checker_thresholds.above(scores)
        if not above:
            return item
        reason = reason_of(above)
        if policy.safety in WITHHOLDING:
            return item.ended(ErrorKind.SAFETY, reason, is_block=True)
        return replace(item, flagged_for=item.flagged_for or reason)

    def _look(self) -> None:
        """Show that the thread that renders is alive, and end the waiting if it is to stop."""
        self.context.check_stop(0)

    def _pause(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()
            time.sleep(_LOOK_S)
        return False
