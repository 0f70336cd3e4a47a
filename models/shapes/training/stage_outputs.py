"""Save and load finished training stages, as safetensors in float32."""

import json
from pathlib import Path
from typing import Any

from models.shapes.training.networks.denoiser import Denoiser


def keep(module: Any, folder: Path) -> None:
    """Save a stage's module in `folder`, which appears only when it is complete."""
    unfinished = folder.with_name(f".{folder.name}")
    for name, part in _parts(module).items():
        part.save_pretrained(unfinished / name)
    unfinished.rename(folder)


def recall(folder: Path) -> Any:
    """Load the module that `keep` saved."""
    parts = {path.name: _load(path) for path in folder.iterdir()}
    return parts["model"] if "model" in parts else Denoiser(parts["unet"], parts["text_encoder"])


def _parts(module: Any) -> dict[str, Any]:
    return dict(module.named_children()) if isinstance(module, Denoiser) else {"model": module}


def _load(folder: Path) -> Any:
    import diffusers  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: PLC0415

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("_class_name") or config["architectures"][0]
    if name == "StableDiffusionSafetyChecker":
        return StableDiffusionSafetyChecker.from_pretrained(folder)
    return getattr(diffusers if "_class_name" in config else transformers, name).from_pretrained(folder)
