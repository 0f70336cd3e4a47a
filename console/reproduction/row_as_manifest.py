"""From an image row back to a manifest of one row, and the options that its batch had."""

from collections.abc import Mapping
from typing import Any

from jobs.policy.batch_policy import BatchPolicy
from jobs.states import Mode

_COPIED = (
    *("prompt", "negative_prompt", "model", "steps", "guidance_scale", "sampler", "init_image", "mask_image"),
    *("depth_image", "strength", "lora", "noise_level", "tenant"),
)
_OWN = {"watermark": "off", "format": "png", "parameters": "false", "reuse": "off"}
"""The mark is embedded afterwards, as the one of the image says which job that was; files are PNG, to be compared."""
LEFT_OUT = ("safety_checkers",)
"""They change no pixels of an image that was delivered as it was drawn, and may cost money, or be gone."""


def manifest_row(record: Mapping[str, Any], *, has_size: bool = True) -> dict[str, Any]:
    """Return the columns of a manifest's row that asks for the image of a record.

    `has_size`: at its width and height before enlargement; else at those of its picture, which may be any.
    """
    row = {name: record[name] for name in _COPIED if record[name] not in (None, "")}
    row["seed"] = int(record["seed"])
    if record["mode"] != Mode.UPSCALE and record["upscale"]:
        row["upscale"] = record["upscale"]
    if has_size:
        row |= {"width": record["generated_width"], "height": record["generated_height"]}
    return row


def set_options(policy: BatchPolicy) -> list[str]:
    """Return the values of `--set` by which an image of another batch is drawn as this one's were."""
    affecting = {name: value for name, value in policy.affecting_images().items() if name not in LEFT_OUT}
    given = {name: _text(value) for name, value in affecting.items() if value is not None}
    return [f"{name}={value}" for name, value in (given | _OWN).items()]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
