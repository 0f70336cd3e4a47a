"""The table of image rows. A column is added here and by a migration; everything else is derived from it."""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from jobs.db.constraint_names_and_column_types import Xid8, metadata, one_of
from jobs.states import WatermarkMethod, WatermarkStrength


class Source(StrEnum):
    """Where the value of an image column comes from when a job is completed."""

    WORKER = "g"
    """The worker brings it (`jobs.job_dataclasses.Image`)."""
    JOB = "j"
    """Copied from the column of the same name of the job."""
    LANE = "l"
    """Copied from the column of the same name of the lane."""
    DATABASE = "database"
    """The column's default."""
    FEED = "feed"
    """Orders the feed; not part of the public record."""


def image_column(
    name: str,
    type_: TypeEngine[Any] | type[TypeEngine[Any]],
    source: Source | str,
    doc: str,
    *arguments: SchemaItem,
    is_public: bool = True,
    **options: Any,
) -> Column[Any]:
    """Return a column of `images`; statements, public records, exports and the reference are derived from it.

    `source` may be an SQL expression of the job `j`, the lane `l` and what the worker gives, `g`; `doc` is what the
    reference says of it. `is_public`: whether the public record has it.
    """
    is_public = is_public and source != Source.FEED
    return Column(
        name, type_, *arguments, doc=doc, info={"source": source, "is_public": is_public}, **options
    )


images = Table(
    "images",
    metadata,
    image_column(
        "id", BigInteger, Source.DATABASE, "number of the image row", Identity(always=False), primary_key=True
    ),
    image_column(
        "xid",
        Xid8,
        Source.FEED,
        "the transaction that wrote the row",
        nullable=False,
        server_default=text("pg_current_xact_id()"),
        comment="orders the feed",
    ),
    image_column("job_id", BigInteger, "j.id", "number of the job", nullable=False, unique=True),
    image_column(
        "batch_id", BigInteger, Source.JOB, "number of the batch", ForeignKey("batches.id"), nullable=False
    ),
    image_column("ordinal", BigInteger, Source.JOB, "which row of the manifest, from 0 on", nullable=False),
    image_column("index", Integer, Source.JOB, "which image of the row, from 0 on", nullable=False),
    image_column("row_id", Text, Source.JOB, "the manifest's own `id`"),
    image_column("key", Text, Source.WORKER, "the file within the output", nullable=False),
    image_column("format", Text, Source.WORKER, "of the file: `png`, `webp` or `jpeg`", nullable=False),
    image_column("width", Integer, Source.WORKER, "of the file, in pixels", nullable=False),
    image_column("height", Integer, Source.WORKER, "of the file, in pixels", nullable=False),
    image_column("bytes", BigInteger, Source.WORKER, "size of the file", nullable=False),
    image_column("sha256", Text, Source.WORKER, "of the file", nullable=False),
    image_column("prompt", Text, Source.JOB, "as given", nullable=False),
    image_column("negative_prompt", Text, Source.JOB, "as given", nullable=False),
    image_column(
        "prompt_tokens",
        Integer,
        Source.WORKER,
        "tokens of the prompt, start and end included",
        nullable=False,
    ),
    image_column(
        "prompt_truncated",
        Boolean,
        Source.WORKER,
        "whether the model read less than all of the prompt or of the negative prompt",
        nullable=False,
    ),
    image_column("model", Text, Source.LANE, "id of the model", nullable=False),
    image_column("model_revision", Text, Source.WORKER, "revision of the checkpoint", nullable=False),
    image_column(
        "model_digest", Text, Source.WORKER, "SHA-256 over all files of the checkpoint", nullable=False
    ),
    image_column(
        "generated_width",
        Integer,
        "coalesce(nullif(l.width, 0), g.width / greatest(l.upscale, 1))",
        "before upscaling",
        nullable=False,
        comment="before upscaling",
    ),
    image_column(
        "generated_height",
        Integer,
        "coalesce(nullif(l.height, 0), g.height / greatest(l.upscale, 1))",
        "before upscaling",
        nullable=False,
    ),
    image_column("steps", SmallInteger, Source.JOB, "steps of the sampler", nullable=False),
    image_column("guidance_scale", Float, Source.JOB, "weight of the prompt", nullable=False),
    image_column("sampler", Text, Source.JOB, "name of the sampler", nullable=False),
    image_column("seed", Numeric(20, 0), Source.JOB, "of the initial noise, below 2⁶⁴", nullable=False),
    image_column("upscale", SmallInteger, Source.LANE, "0 or 4", nullable=False),
    image_column("noise_level", SmallInteger, Source.JOB, "of the upscaler"),
    image_column(
        "upscaler_digest",
        Text,
        Source.WORKER,
        "SHA-256 of the upscaler, which in the mode `upscale` is the model itself",
    ),
    image_column("tenant", Text, Source.JOB, "as given"),
    image_column(
        "safety_verdict",
        Text,
        Source.WORKER,
        "`safe`, `flagged`, `blackened` or `blurred`; a blocked job has no image row",
        nullable=False,
        comment="safe, flagged, blackened or blurred",
    ),
    image_column("safety_reason", Text, Source.WORKER, "what was found"),
    image_column(
        "safety_scores",
        JSONB,
        Source.WORKER,
        "the score of every concept, above 0 is flagged at the standard strength ([safety](../safety.md))",
        comment="score of every concept, so that a new policy needs no GPU",
    ),
    image_column(
        "watermark",
        Text,
        Source.WORKER,
        "the mark's text, or the 64 bits of a tiled one as 16 hex digits; null: none, as in blackened images",
        comment="payload; null: none embedded",
    ),
    image_column(
        "watermark_bit_accuracy",
        Float,
        Source.WORKER,
        "the share of the mark's bits read back from the encoded file, 0 to 1",
        comment="read back from the encoded file, 0 to 1",
    ),
    image_column("device", Text, Source.WORKER, "what it was made on", nullable=False),
    image_column(
        "batch_rows",
        SmallInteger,
        Source.WORKER,
        "size of the device batch",
        nullable=False,
        comment="shape of the device batch",
    ),
    image_column(
        "versions",
        JSONB,
        Source.WORKER,
        "what it was made with, and the options that change pixels ([outputs](../outputs.md#image-rows))",
        nullable=False,
    ),
    image_column(
        "timings",
        JSONB,
        Source.WORKER,
        "seconds a stage, the image's share where several were in it together",
        nullable=False,
        comment="seconds a stage, the image's share",
    ),
    image_column("worker", Text, Source.JOB, "who made it", nullable=False),
    image_column("attempt", SmallInteger, Source.JOB, "in which attempt", nullable=False),
    image_column(
        "meta",
        JSON,
        Source.JOB,
        "all other columns of the manifest",
        nullable=False,
        comment="as the manifest has it: order of keys, form of numbers",
    ),
    image_column(
        "created_at",
        DateTime(timezone=True),
        Source.DATABASE,
        "by the database's clock",
        nullable=False,
        server_default=text("now()"),
    ),
    image_column(
        "mode",
        Text,
        Source.LANE,
        "`text2image`, `image2image`, `inpaint`, `depth` or `upscale`",
        nullable=False,
        server_default=text("'text2image'"),
    ),
    image_column(
        "init_image", Text, Source.JOB, "the picture it was made from: an absolute path or an `s3://` URI"
    ),
    image_column(
        "init_image_sha256",
        Text,
        Source.WORKER,
        "of the file that `init_image` was when it was opened",
        comment="of the file that the picture started from",
    ),
    image_column("mask_image", Text, Source.JOB, "the picture that says where to paint"),
    image_column("depth_image", Text, Source.JOB, "the picture that says how far away things are"),
    image_column("strength", Float, Source.JOB, "how far from `init_image`; null where there is none"),
    image_column(
        "lora",
        Text,
        Source.LANE,
        "`id:weight`, several joined by `+`",
        nullable=False,
        server_default=text("''"),
    ),
    image_column(
        "lora_digest",
        Text,
        Source.WORKER,
        "the SHA-256 of each LoRA's checkpoint, in the order of `lora`",
        comment="one a LoRA, joined by + in the order of lora",
    ),
    image_column(
        "quality",
        JSONB,
        Source.WORKER,
        "`clip_score`, 0 to 100, of the picture and its prompt before upscaling, and `clip_model`; "
        "null where it wasn't computed or withheld",
        comment="clip_score and clip_model; null: not computed",
    ),
    image_column(
        "watermark_method",
        Text,
        Source.WORKER,
        "how the mark was embedded ([outputs](../outputs.md#the-invisible-mark))",
        comment="null: none embedded, or by a version that knew dwtDctSvd alone",
    ),
    image_column(
        "epoch",
        Integer,
        Source.FEED,
        "the cluster in which the row was written",
        nullable=False,
        server_default=text("0"),
        comment="orders the feed where transaction ids of several clusters meet",
    ),
    image_column(
        "annotations",
        JSONB,
        Source.WORKER,
        "what stages of the pipeline found that has no column of its own, by the stage's name",
        comment="findings by stage; null: none",
    ),
    image_column(
        "phash",
        Text,
        Source.WORKER,
        "perceptual hash before the mark was embedded, 64 bits as hex "
        "([outputs](../outputs.md#near-duplicates)); null where the image was withheld",
        comment="64 bits as hex; null: withheld, or by a version without",
    ),
    image_column(
        "inputs_sha256",
        Text,
        Source.WORKER,
        "of everything that decides the image, by which a later job finds it and reuses it",
        is_public=False,
        comment="of everything that decides the image; null: by a version without",
    ),
    image_column(
        "reused_from",
        BigInteger,
        Source.WORKER,
        "the image row for which the file was rendered, where it was copied; null: it was rendered for this row",
        comment="image row for which the file was rendered; it may be gone",
    ),
    image_column(
        "pixels_sha256",
        Text,
        Source.WORKER,
        "of the pixels as they read back from the file: 8-bit RGB, row by row, without the size; null where the "
        "image was withheld",
        comment="of the decoded RGB bytes; null: withheld, or by a version without",
    ),
    image_column(
        "iscc",
        Text,
        Source.WORKER,
        "ISCC Image-Code of the picture (ISO 24138), by which `nightmill verify` finds changed copies; null where the "
        "image was withheld",
        comment="ISCC Image-Code; null: withheld, or by a version without",
    ),
    image_column(
        "c2pa_manifest_id",
        Text,
        Source.WORKER,
        "id of the signed manifest in the file or beside it ([provenance](../provenance.md)); null: the file isn't "
        "signed",
        comment="urn of the active C2PA manifest; null: not signed",
    ),
    image_column(
        "watermark_strength",
        Text,
        Source.WORKER,
        "`strong`: a tiled mark that survives JPEG of quality 75; `weak`: one that may not "
        "([marking](../marking.md#weak-marks)); null: another mark, or none",
        comment="strong or weak; null: no tiled mark, or by a version without",
    ),
    image_column(
        "c2pa_sidecar_sha256",
        Text,
        Source.WORKER,
        "of the file with the signed manifest, which lies beside the image under its name, with the extension `c2pa` "
        "([provenance](../provenance.md#manifests-beside-the-files)); null: there is none",
        comment="of the file with the manifest, beside the image; null: none",
    ),
    CheckConstraint("length(sha256) = 64", "sha256"),
    CheckConstraint("length(pixels_sha256) = 64", "pixels_sha256"),
    CheckConstraint("length(c2pa_sidecar_sha256) = 64", "c2pa_sidecar_sha256"),
    CheckConstraint("watermark_bit_accuracy BETWEEN 0 AND 1", "watermark_bit_accuracy"),
    CheckConstraint(one_of("watermark_method", WatermarkMethod), "watermark_method"),
    CheckConstraint(one_of("watermark_strength", WatermarkStrength), "watermark_strength"),
    CheckConstraint("safety_verdict IN ('safe', 'flagged', 'blackened', 'blurred')", "safety_verdict"),
    UniqueConstraint("batch_id", "ordinal", "index"),
    Index("images_feed_idx", "epoch", "xid", "id"),
    Index("images_rate_idx", "batch_id", "created_at"),
    Index("images_inputs_idx", "inputs_sha256", postgresql_using="hash"),
    Index("images_pixels_sha256_idx", "pixels_sha256", postgresql_using="hash"),
    Index("images_c2pa_manifest_id_idx", "c2pa_manifest_id", postgresql_using="hash"),
    Index(
        "images_copied_marks_idx",
        "watermark",
        postgresql_where=text("reused_from IS NOT NULL AND watermark_method = 'tiled'"),
    ),
    Index("images_reused_idx", "reused_from", postgresql_where=text("reused_from IS NOT NULL")),
)
