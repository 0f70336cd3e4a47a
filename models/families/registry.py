"""The model families that are served, and which of them serves a checkpoint."""

import json
from typing import Any

from models.errors import CheckpointError
from models.families.family import ModelFamily
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.store.resolve_checkpoint import Checkpoint

FAMILIES: list[type[ModelFamily[Any]]] = [StableDiffusion, Upscaler]
"""The first that serves a checkpoint is taken: specific families go before general ones."""


def family_of(checkpoint: Checkpoint) -> type[ModelFamily[Any]]:
    """Return the family that serves the checkpoint. Raises CheckpointError if there is none."""
    pipeline_class = _pipeline_class(checkpoint)
    for family in FAMILIES:
        if family.serves(checkpoint.card, pipeline_class):
            return family
    raise CheckpointError(
        f"{checkpoint.path}: nightmill serves no {pipeline_class or 'model'} as a {checkpoint.card.family}"
    )


def _pipeline_class(checkpoint: Checkpoint) -> str | None:
    """Return the class that the checkpoint's model_index.json names; the file was vetted when it was resolved."""
    file = checkpoint.folder / "model_index.json"
    if not file.is_file():
        return None
    name = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    return name if isinstance(name, str) else None
