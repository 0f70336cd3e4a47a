"""Sign: write a signed C2PA manifest, which says what made the image and which job it is of, into or for the file."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from jobs.states import PromptDisclosure, TrainingUse, WatermarkMethod
from models.errors import SigningError
from models.provenance.image_claim import ImageClaim
from worker.health.error_classification import HostFaultError
from worker.imaging.encode import encoded, nightmill_version
from worker.item import PipelineItem
from worker.stage import Place, Stage, StageContext


class Sign(Stage):
    """Signs files and reads the manifests back; an identity that can't sign makes the worker unhealthy."""

    name = "sign"
    place = Place.BACKGROUND
    switched_on_by = "a signing identity, `NIGHTMILL_C2PA`"
    is_one_at_a_time = True

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether this worker has a signing identity."""
        return context.signer is not None

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their signed files."""
        return [self._signed(item) for item in items]

    def _signed(self, item: PipelineItem) -> PipelineItem:
        file, signer = item.encoded, self.context.signer
        assert file is not None
        assert signer is not None
        try:
            signed = signer.sign(file.body, file.content_type, self._claim(item), item.parent)
        except SigningError as error:
            raise HostFaultError(f"signing: {error}") from error
        result = replace(encoded(signed.body, file.format), sidecar=signed.sidecar)
        return replace(item, encoded=result, c2pa_manifest_id=signed.manifest.id, parent=None)

    def _claim(self, item: PipelineItem) -> ImageClaim:
        job, policy = item.job, self.context.lane.policy
        is_tiled = item.watermark_method is WatermarkMethod.TILED
        return ImageClaim(
            title=f"{job.ordinal:06}-{job.index}",
            version=nightmill_version(),
            created_at=datetime.now(UTC),
            is_edited=item.input_files.image is not None,
            details=self._details(item),
            iscc=item.iscc,
            tiled_mark=item.watermark if is_tiled else None,
            has_other_mark=item.watermark is not None and not is_tiled,
            may_train=policy.c2pa_training is TrainingUse.ALLOWED,
        )

    def _details(self, item: PipelineItem) -> dict[str, Any]:
        job, lane, models = item.job, self.context.lane, self.context.lane_models
        upscaling = models.upscaler_checkpoint
        known = {
            "image": f"urn:nightmill:{self.context.installation}:job:{job.id}",
            "model": lane.model,
            "model_digest": models.checkpoint.digest,
            "model_license": models.card.license,
            "loras": [lora.digest for lora in models.loras] or None,
            "upscaler_digest": upscaling.digest if upscaling else None,
            "seed": str(job.seed),
            "init_image_sha256": item.input_files.image,
        }
        return {name: value for name, value in known.items() if value is not None} | self._of_prompt(
            job.prompt
        )

    def _of_prompt(self, prompt: str) -> dict[str, str]:
        match self.context.lane.policy.c2pa_prompt:
            case PromptDisclosure.HASH:
                return {"prompt_sha256": hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()}
            case PromptDisclosure.FULL:
                return {"prompt": prompt.encode("utf-8", "replace").decode()}
            case PromptDisclosure.OMIT:
                return {}
