"""The digest of everything that decides an image: two images with the same one have the same pixels and metadata."""

import json
from collections.abc import Mapping
from dataclasses import astuple
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from jobs.job_dataclasses import Job
from jobs.states import Mode
from worker.content_safety_requests import uses_service
from worker.item import InputFiles, PipelineItem
from worker.stage import StageContext


class InputsDigest:
    """Digests of the inputs of a lane's images.

    They cover the row, the digests of its input images and of all models, size, device and batch size, the versions and
    options that affect pixels, the policy as far as it affects images, the mark, what the prompt filter finds, and
    nightmill's own version, since another one may render differently.
    """

    def __init__(self, context: StageContext, versions: Mapping[str, str]) -> None:
        """`versions` are those that image rows of the lane have, without what only some of them have."""
        self._context = context
        self._of_lane = sha256(_canonical(_lane_inputs(context, versions)))

    def of_job(self, job: Job, files: InputFiles) -> str:
        """Return the digest of the image that this worker would render now, in hex."""
        found = self._context.prompt_terms.find(job.prompt)
        return self._digest(job, files, found, *_rows_now(self._context))

    def of_rendered(self, item: PipelineItem) -> str:
        """Return the digest of an image that was rendered, in hex."""
        found = item.prompt_finding
        return self._digest(item.job, item.input_files, found, item.batch_rows, item.upscaler_rows)

    def _digest(self, job: Job, files: InputFiles, found: str | None, rows: int, upscaler_rows: int) -> str:
        digest = self._of_lane.copy()
        of_job = {"files": astuple(files), "prompt_filter": found, "rows": [rows, upscaler_rows]}
        digest.update(_canonical(_job_inputs(job) | of_job))
        return digest.hexdigest()


def _lane_inputs(context: StageContext, versions: Mapping[str, str]) -> dict[str, Any]:
    lane, models = context.lane, context.lane_models
    upscaling = models.upscaler_checkpoint
    return {
        "nightmill": version("nightmill"),
        "versions": dict(versions),
        "device": models.device.label,
        "mode": lane.mode,
        "size": [lane.width, lane.height, lane.upscale],
        "model": [models.card.model_dump(mode="json"), models.checkpoint.revision, models.checkpoint.digest],
        "upscaler": [upscaling.card.model_dump(mode="json"), upscaling.digest] if upscaling else None,
        "lora": [lane.lora, [lora.digest for lora in models.loras]],
        "clip": [models.clip.model, models.clip.digest] if models.clip else None,
        "policy": lane.policy.affecting_images(),
        "mark": _mark(context),
        "signer": _signer(context),
        **_service(context),
    }


def _signer(context: StageContext) -> str | list[str] | None:
    """Return who signs the lane's images, and that manifests are kept beside them: their files are others then."""
    signer = context.signer
    if signer is None:
        return None
    return signer.fingerprint if signer.embeds else [signer.fingerprint, "sidecar"]


def _service(context: StageContext) -> dict[str, str]:
    """Return the service that rates the lane's images or prompts; another one may rate them otherwise."""
    service = context.content_safety if uses_service(context.lane) else None
    return {"content_safety": service.url} if service else {}


def _mark(context: StageContext) -> list[Any]:
    method = [context.settings.has_tiled_marks, context.text_mark_method]
    return [context.watermark_text, method, context.mark_key.fingerprint]


def _job_inputs(job: Job) -> dict[str, Any]:
    return {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "steps": job.steps,
        "guidance_scale": job.guidance_scale,
        "sampler": job.sampler,
        "seed": job.seed,
        "noise_level": job.noise_level,
        "strength": job.strength,
    }


def _rows_now(context: StageContext) -> tuple[int, int]:
    """Return the batch sizes at which the lane's next image will be generated, and upscaled afterwards if it is."""
    lane, model_cache = context.lane, context.model_cache
    if lane.mode == Mode.UPSCALE:
        return (model_cache.rows(lane, "upscale") if lane.width else 1), 0
    return model_cache.rows(lane), model_cache.rows(lane, "upscale") if lane.upscales_generated else 0


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
