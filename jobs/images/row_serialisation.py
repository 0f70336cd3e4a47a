"""Image records: the public form of image rows, identical in the feed and in every export."""

from collections.abc import Generator
from typing import Any

from sqlalchemy import Connection, Row, text

from jobs.job_types import BatchId

COLUMNS = """
    i.id AS image_id, b.name AS batch, i.job_id, i.ordinal, i.index, i.row_id, i.key, b.output, i.format, i.width,
    i.height, i.bytes, i.sha256, i.prompt, i.negative_prompt, i.prompt_tokens, i.prompt_truncated, i.model,
    i.model_revision, i.model_digest, i.generated_width, i.generated_height, i.steps, i.guidance_scale, i.sampler,
    i.seed, i.upscale, i.noise_level, i.upscaler_digest, i.tenant, i.safety_verdict, i.safety_reason, i.safety_scores,
    i.watermark, i.watermark_bit_accuracy, i.device, i.batch_rows, i.versions, i.timings, i.worker, i.attempt, i.meta,
    i.created_at, i.mode, i.init_image, i.init_image_sha256, i.mask_image, i.depth_image, i.strength, i.lora,
    i.lora_digest, i.quality, i.watermark_method"""

_OF_BATCH = text(f"""
    SELECT {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE i.batch_id = :batch ORDER BY i.ordinal, i.index
""")


def record(row: Row[Any]) -> dict[str, Any]:
    """Convert a row into a record: `uri` is the file's location, `seed` an int up to 2**64 - 1."""
    values = dict(row._mapping)
    output = values.pop("output")
    values["seed"] = int(values["seed"])
    return values | {"uri": f"{output.rstrip('/')}/{values['key']}"}


def images_of(connection: Connection, batch: BatchId) -> Generator[dict[str, Any], None, None]:
    """Stream all image records of a batch in manifest order; close the generator if you don't exhaust it."""
    streamed = connection.execution_options(stream_results=True, max_row_buffer=2000)
    with streamed.execute(_OF_BATCH, {"batch": batch}) as rows:
        for row in rows:
            yield record(row)
