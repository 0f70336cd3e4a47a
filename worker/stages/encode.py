"""Encode: make the image file, with the generation parameters as metadata unless the batch leaves them out."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.manifest import split_loras
from models.catalogue.samplers import viewer_name
from models.provenance.image_claim import SourceType
from worker.imaging.encode import encode, parameters_text
from worker.item import PipelineItem
from worker.stage import Place, Stage


class Encode(Stage):
    """Encodes PNG, WebP or JPEG files."""

    name = "encode"
    place = Place.BACKGROUND
    is_one_at_a_time = True

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their files."""
        lane = self.context.lane
        return [
            replace(
                item,
                encoded=encode(
                    item.image,
                    lane.policy.format,
                    quality=lane.policy.quality,
                    parameters=self._parameters(item) if lane.policy.parameters else None,
                    source_type=SourceType.EDITED if item.input_files.image else SourceType.GENERATED,
                ),
            )
            for item in items
        ]

    def _parameters(self, item: PipelineItem) -> str:
        job, lane, models = item.job, self.context.lane, self.context.lane_models
        height, width = item.image.shape[:2]
        scale = max(1, lane.upscale)
        asked = zip(split_loras(lane.lora), models.loras, strict=True)
        upscaling = models.upscaler_checkpoint
        return parameters_text(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            steps=job.steps,
            sampler_label=viewer_name(job.sampler),
            guidance_scale=job.guidance_scale,
            seed=job.seed,
            width=width // scale,
            height=height // scale,
            model=lane.model,
            model_digest=models.checkpoint.digest,
            upscale=upscaling.card.id if upscaling else None,
            strength=job.strength,
            loras=[(id, weight, checkpoint.digest) for (id, weight), checkpoint in asked],
        )
