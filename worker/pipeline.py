"""The pipeline: the stages that every image passes, in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.job_dataclasses import Lane
from worker.model_cache.lane_models import LaneModels
from worker.stage import ImageStage, Place, Renderer, Stage, StageContext
from worker.stages.clip_score import ClipScore
from worker.stages.encode import Encode
from worker.stages.generate import Generate
from worker.stages.iscc_code import IsccCode
from worker.stages.load_inputs import LoadInputs
from worker.stages.perceptual_hash import PerceptualHash
from worker.stages.safety_checks.content_safety_of_images import ContentSafetyOfImages
from worker.stages.safety_checks.content_safety_of_prompts import ContentSafetyOfPrompts
from worker.stages.safety_checks.prompt_filter import PromptFilter
from worker.stages.safety_checks.safety import Safety
from worker.stages.safety_checks.safety_of_upscaled import SafetyOfUpscaled
from worker.stages.sign import Sign
from worker.stages.upload import Upload
from worker.stages.upscale import Upscale
from worker.stages.upscale_input import UpscaleInput
from worker.stages.verify_watermark import VerifyWatermark
from worker.stages.watermark import Watermark

PIPELINE: list[type[Stage]] = [
    PromptFilter,
    ContentSafetyOfPrompts,
    LoadInputs,
    Generate,
    UpscaleInput,
    Safety,
    ClipScore,
    Upscale,
    SafetyOfUpscaled,
    ContentSafetyOfImages,
    PerceptualHash,
    Watermark,
    Encode,
    IsccCode,
    Sign,
    VerifyWatermark,
    Upload,
]


@dataclass(frozen=True)
class LanePipeline:
    """The stages of one lane, by where they run: the first three groups in the thread that renders."""

    lane: Lane
    lane_models: LaneModels
    prepare: Sequence[Stage]
    """Before an item enters the device batch."""
    render: Renderer
    """Makes the images."""
    on_device: Sequence[Stage]
    """Between two device batches."""
    background: Sequence[Stage]
    """While the next images are rendered."""


def lane_pipeline(context: StageContext) -> LanePipeline:
    """Return the stages that the lane has on."""
    stages = [stage(context) for stage in PIPELINE if stage.is_on(context)]
    ((makes, image_stage),) = (
        (number, stage) for number, stage in enumerate(stages) if isinstance(stage, ImageStage)
    )
    last = max(number for number, stage in enumerate(stages) if stage.place == Place.DEVICE)
    return LanePipeline(
        context.lane,
        context.lane_models,
        prepare=stages[:makes],
        render=image_stage.renderer(),
        on_device=stages[makes + 1 : last + 1],
        background=stages[last + 1 :],
    )


def table() -> str:
    """Return the pipeline as a Markdown table, as the documentation shows it."""
    rows = [
        (f"`{stage.name}`", stage.place, stage.switched_on_by, _first_sentence(stage)) for stage in PIPELINE
    ]
    lines = [("stage", "runs", "on", "what it does"), ("---",) * 4, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _first_sentence(stage: type[Stage]) -> str:
    return (stage.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    print(table(), end="")
