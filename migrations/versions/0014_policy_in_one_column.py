"""The keys of a batch's policy that no statement of the queue compares lie in one column

Revision ID: 0014
Revises: 0013
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COMMENT = "keys of BatchPolicy that are no columns and not their defaults"
_RATIO = "replacements at most, as a share of the target"

# Key, SQL of its default, and the column that held it.
_KEYS: tuple[tuple[str, str, Callable[[], sa.Column[object]]], ...] = (
    ("batch_seed", "0", lambda: sa.Column("seed", sa.BigInteger())),
    ("safety", "'block'", lambda: sa.Column("safety", sa.Text())),
    ("watermark", "'require'", lambda: sa.Column("watermark", sa.Text())),
    ("format", "'png'", lambda: sa.Column("format", sa.Text())),
    ("quality", "95", lambda: sa.Column("quality", sa.SmallInteger())),
    (
        "parameters",
        "true",
        lambda: sa.Column(
            "parameters", sa.Boolean(), comment="write the generation parameters into the file"
        ),
    ),
    ("clip_score", "'auto'", lambda: sa.Column("clip_score", sa.Text(), server_default=sa.text("'auto'"))),
    (
        "target",
        "NULL",
        lambda: sa.Column(
            "target", sa.Integer(), comment="accepted images wanted for each value of target_per"
        ),
    ),
    (
        "target_per",
        "NULL",
        lambda: sa.Column("target_per", sa.Text(), comment="key of meta; null: the batch as a whole"),
    ),
    (
        "max_replacement_ratio",
        "1",
        lambda: sa.Column("max_replacement_ratio", sa.Float(), server_default=sa.text("1"), comment=_RATIO),
    ),
    (
        "deep_cache",
        "1",
        lambda: sa.Column(
            "deep_cache",
            sa.SmallInteger(),
            server_default=sa.text("1"),
            comment="of so many UNet calls, one is whole",
        ),
    ),
    (
        "weights",
        "NULL",
        lambda: sa.Column(
            "weights",
            sa.Text(),
            comment="how the model's weights are held; null: as the worker's settings say",
        ),
    ),
    (
        "decoder",
        "'full'",
        lambda: sa.Column("decoder", sa.Text(), server_default=sa.text("'full'"), comment="full or tiny"),
    ),
)

_CHECKS = {
    "safety": "safety IN ('block', 'flag', 'blacken', 'blur')",
    "watermark": "watermark IN ('require', 'best-effort', 'off')",
    "format": "format IN ('png', 'webp', 'jpeg')",
    "quality": "quality BETWEEN 1 AND 100",
    "clip_score": "clip_score IN ('auto', 'on', 'off')",
    "target": "target > 0 AND max_replacement_ratio >= 0",
    "deep_cache": "deep_cache BETWEEN 1 AND 10",
    "weights": "weights IN ('full', 'fp8', 'int8', 'int4')",
    "decoder": "decoder IN ('full', 'tiny')",
}


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column("policy", JSONB(), server_default=sa.text("'{}'"), nullable=False, comment=_COMMENT),
    )
    pairs = ", ".join(f"'{key}', nullif({column().name}, {default})" for key, default, column in _KEYS)
    op.execute(f"UPDATE batches SET policy = jsonb_strip_nulls(jsonb_build_object({pairs}))")  # noqa: S608
    op.create_check_constraint(op.f("batches_policy_check"), "batches", "jsonb_typeof(policy) = 'object'")
    for name in _CHECKS:
        op.drop_constraint(op.f(f"batches_{name}_check"), "batches")
    for _, _, column in _KEYS:
        op.drop_column("batches", column().name)


def downgrade() -> None:
    """Keys of later versions are dropped."""
    for _, _, column in _KEYS:
        op.add_column("batches", column())
    values = ", ".join(
        f"{column().name} = coalesce(CAST(policy ->> '{key}' AS {column().type}), {default})"
        for key, default, column in _KEYS
    )
    op.execute(f"UPDATE batches SET {values}")  # noqa: S608
    for _, default, column in _KEYS:
        if default != "NULL":
            op.alter_column("batches", column().name, nullable=False)
    for name, rule in _CHECKS.items():
        op.create_check_constraint(op.f(f"batches_{name}_check"), "batches", rule)
    op.drop_constraint(op.f("batches_policy_check"), "batches")
    op.drop_column("batches", "policy")
