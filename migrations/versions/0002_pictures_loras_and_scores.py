"""Pictures to start from, LoRAs and CLIP scores

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MODES = "mode IN ('text2image', 'image2image', 'inpaint', 'depth', 'upscale')"
_OLD_LANE = ["batch_id", "model", "width", "height", "upscale"]
_LANE = ["batch_id", "model", "mode", "lora", "width", "height", "upscale"]


def upgrade() -> None:
    op.add_column("batches", _text("clip_score", "auto"))
    op.create_check_constraint(
        op.f("batches_clip_score_check"), "batches", "clip_score IN ('auto', 'on', 'off')"
    )
    op.add_column("lanes", _text("mode", "text2image"))
    op.add_column("lanes", _text("lora", "", comment="as id:weight+id:weight"))
    op.alter_column("lanes", "width", comment="0, and height too: as the picture to start from")
    op.create_check_constraint(op.f("lanes_mode_check"), "lanes", _MODES)
    op.drop_constraint(op.f("lanes_batch_id_model_width_height_upscale_key"), "lanes")
    op.create_unique_constraint(
        op.f("lanes_batch_id_model_mode_lora_width_height_upscale_key"), "lanes", _LANE
    )
    op.add_column(
        "jobs",
        sa.Column("init_image", sa.Text(), comment="absolute path or s3://bucket/key, as the next two"),
    )
    op.add_column("jobs", sa.Column("mask_image", sa.Text()))
    op.add_column("jobs", sa.Column("depth_image", sa.Text()))
    op.add_column("jobs", sa.Column("strength", sa.Float()))
    op.create_check_constraint(op.f("jobs_strength_check"), "jobs", "strength > 0 AND strength <= 1")
    op.add_column("images", _text("mode", "text2image"))
    op.add_column("images", sa.Column("init_image", sa.Text()))
    op.add_column(
        "images",
        sa.Column("init_image_sha256", sa.Text(), comment="of the file that the picture started from"),
    )
    op.add_column("images", sa.Column("mask_image", sa.Text()))
    op.add_column("images", sa.Column("depth_image", sa.Text()))
    op.add_column("images", sa.Column("strength", sa.Float()))
    op.add_column("images", _text("lora", ""))
    op.add_column(
        "images",
        sa.Column("lora_digest", sa.Text(), comment="one a LoRA, joined by + in the order of lora"),
    )
    op.add_column(
        "images",
        sa.Column("quality", postgresql.JSONB(), comment="clip_score and clip_model; null: not computed"),
    )


def downgrade() -> None:
    """Refuses, by the constraint, where a batch has two lanes that differ only in what did not exist before."""
    for column in (
        "quality",
        "lora_digest",
        "lora",
        "strength",
        "depth_image",
        "mask_image",
        "init_image_sha256",
        "init_image",
        "mode",
    ):
        op.drop_column("images", column)
    for column in ("strength", "depth_image", "mask_image", "init_image"):
        op.drop_column("jobs", column)
    op.drop_constraint(op.f("lanes_batch_id_model_mode_lora_width_height_upscale_key"), "lanes")
    op.create_unique_constraint(op.f("lanes_batch_id_model_width_height_upscale_key"), "lanes", _OLD_LANE)
    op.alter_column("lanes", "width", comment=None)
    op.drop_column("lanes", "lora")
    op.drop_column("lanes", "mode")
    op.drop_column("batches", "clip_score")


def _text(name: str, default: str, comment: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default=sa.text(f"'{default}'"), comment=comment)
