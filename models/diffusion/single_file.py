"""Load a single .safetensors file in the original format, with the configuration of its base checkpoint."""

from typing import Any

from safetensors import safe_open

from models.errors import CheckpointError
from models.store.resolve_checkpoint import Checkpoint

_PARTS = {
    "model.diffusion_model.": "UNet",
    "first_stage_model.": "VAE",
    "cond_stage_model.": "text encoder",
}


def load_single_file(checkpoint: Checkpoint, pipeline_class: Any, **options: Any) -> Any:
    """Load the pipeline of the single file `checkpoint`, configured as its base, without network access.

    `options` are passed to diffusers' `from_single_file`. Raises CheckpointError if the file holds no complete model.
    """
    _check_parts(checkpoint)
    try:
        # diffusers' own configurations name repositories that no longer exist; without `config`, it would query the
        # hub for them.
        return pipeline_class.from_single_file(
            str(checkpoint.path), config=str(checkpoint.folder), local_files_only=True, **options
        )
    except NotImplementedError as error:  # raised by torch for a weight without values
        raise CheckpointError(
            f"{checkpoint.path}: lacks weights that its base has; fetch it again"
        ) from error


def _check_parts(checkpoint: Checkpoint) -> None:
    with safe_open(checkpoint.path, "pt") as weights:
        names = list(weights.keys())
    for prefix, part in _PARTS.items():
        if not any(name.startswith(prefix) for name in names):
            raise CheckpointError(
                f"{checkpoint.path}: holds no {part} in the original format ({prefix}…); a model in diffusers"
                " format is added as a folder, and a LoRA with --lora"
            )
