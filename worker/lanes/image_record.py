"""Make the image row of a finished item."""

from collections.abc import Mapping
from dataclasses import fields

from jobs.images.find_images_of_same_inputs import ReusableImage
from jobs.job_dataclasses import Image, Lane
from worker.item import PipelineItem
from worker.reuse.inputs_digest import InputsDigest
from worker.stage import StageContext


def image_record(
    context: StageContext, versions: Mapping[str, str], digest: InputsDigest, item: PipelineItem
) -> Image:
    """Return the columns that aren't copied from the job; `versions` are of the libraries and options that rendered."""
    if item.reused is not None:
        return _record_of_copy(item, item.reused)
    encoded, key, models = item.encoded, item.key, context.lane_models
    assert encoded is not None
    assert key is not None
    height, width = item.image.shape[:2]
    upscaling = models.upscaler_checkpoint
    return Image(
        id=item.job.id,
        lease=item.job.lease,
        key=key,
        format=encoded.format,
        width=width,
        height=height,
        bytes=len(encoded.body),
        sha256=encoded.sha256,
        prompt_tokens=item.prompt_tokens,
        prompt_truncated=item.prompt_truncated,
        model_revision=models.checkpoint.revision,
        model_digest=models.checkpoint.digest,
        upscaler_digest=upscaling.digest if upscaling else None,
        safety_verdict=item.safety_verdict,
        safety_reason=item.flagged_for,
        safety_scores=item.safety_scores,
        watermark=item.watermark,
        watermark_bit_accuracy=item.bit_accuracy,
        device=models.device.label,
        batch_rows=item.batch_rows,
        versions={**versions, **_notes(context.lane, item)},
        timings=dict(item.timings),
        init_image_sha256=item.input_files.image,
        lora_digest="+".join(lora.digest for lora in models.loras) or None,
        quality=item.quality,
        watermark_method=item.watermark_method,
        annotations=dict(item.annotations) or None,
        phash=item.phash,
        inputs_sha256=digest.of_rendered(item),
        pixels_sha256=item.pixels_sha256,
        iscc=item.iscc,
        c2pa_manifest_id=item.c2pa_manifest_id,
        watermark_strength=item.mark_strength,
        c2pa_sidecar_sha256=encoded.sidecar_sha256,
    )


def _record_of_copy(item: PipelineItem, reused: ReusableImage) -> Image:
    """Return the columns of an image whose file was copied: of the other row, but for key and timings."""
    assert item.key is not None
    columns = {
        **reused.columns,
        "key": item.key,
        "timings": dict(item.timings),
        "reused_from": reused.rendered_as,
    }
    known = {field.name for field in fields(Image)}
    more = {name: value for name, value in columns.items() if name not in known}
    return Image(
        item.job.id,
        item.job.lease,
        **{name: value for name, value in columns.items() if name in known},
        more=more,
    )


def versions_of(context: StageContext) -> dict[str, str]:
    """Return the versions of libraries and safety checker, and the runtime options that affect the lane's pixels."""
    from models.runtime.device import versions  # noqa: PLC0415 - imports torch

    compile_options = context.model_cache.compile_options(context.lane)
    models = context.lane_models
    checkers = {"safety_checker_digest": models.safety.digest}
    checkers |= {f"classifier_digest:{each.name}": each.digest for each in models.classifiers}
    digests = {name: digest for name, digest in checkers.items() if digest}
    return versions() | digests | context.lane_models.notes(compile_options)


def _notes(lane: Lane, item: PipelineItem) -> dict[str, str]:
    """Return the options that affect pixels and apply to some images only."""
    rows = {"upscaler_rows": str(item.upscaler_rows)} if item.upscaler_rows else {}
    return rows | lane.policy.recorded()
