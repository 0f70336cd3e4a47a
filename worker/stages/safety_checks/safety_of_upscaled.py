"""Safety of upscaled: check images again that an upscaler has drawn over, as they are delivered."""

from collections.abc import Sequence

from worker.item import PipelineItem
from worker.stage import StageContext
from worker.stages.safety_checks.safety_check_base_classes import ModelSafetyCheck


class SafetyOfUpscaled(ModelSafetyCheck):
    """Checks upscaled images like those before; what was withheld is as it was."""

    name = "safety_of_upscaled"
    switched_on_by = "rows with `upscale`, `check_upscaled`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the lane's images are generated and then upscaled, and checked again."""
        return context.lane.upscales_generated and context.lane.policy.check_upscaled

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with the higher scores; flagged ones are blocked, marked, blackened or blurred."""
        withheld = [item for item in items if item.is_withheld]
        drawn = [item for item in items if not item.is_withheld]
        return withheld + (super().run(drawn) if drawn else [])
