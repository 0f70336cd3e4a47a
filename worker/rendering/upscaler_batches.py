"""Device batches of the upscaler, as the two upscaling stages run them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.catalogue.card import Card
from worker.item import PipelineItem
from worker.rendering.oom_backoff import DeviceBatches
from worker.stage import StageContext

if TYPE_CHECKING:
    from models.families.upscaler import UpscaleRequest

FACTOR = 4


def upscaler_card(context: StageContext) -> Card:
    """Return the card of the lane's upscaler."""
    assert context.lane_models.upscaler_checkpoint is not None
    return context.lane_models.upscaler_checkpoint.card


def upscaled(
    context: StageContext,
    items: Sequence[PipelineItem],
    requests: "Sequence[UpscaleRequest]",
    rows: int | None = None,
) -> list[PipelineItem]:
    """Return the items with the images that the requests give; `rows` fixes the batch size."""
    upscaler = context.lane_models.upscaler
    assert upscaler is not None
    compile_options = context.model_cache.compile_options(context.lane)
    return DeviceBatches(context.model_cache, context.lane, "upscale").run(
        items,
        lambda shape: upscaler.render(
            requests, rows=shape, on_step=context.check_stop, compile_options=compile_options
        ),
        rows,
    )
