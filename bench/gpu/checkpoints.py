"""Writes random checkpoints with cards into a models folder, for a worker to load."""

import json
from pathlib import Path
from typing import Any

import torch

from bench.gpu.architectures import SAFETY_VISION, TINY_VISION, Architecture
from bench.gpu.networks import pipeline_of
from models.runtime.device import Device
from models.runtime.library_logging import quiet

MODEL = "bench"
_SAFETY = "bench-safety"
_ABOUT = {
    "title": "Random weights, to measure with",
    "summary": "It draws noise.",
    "license": "Apache-2.0",
    "limits": "Its weights are random.",
}


def save_models(folder: Path, architecture: Architecture, device: Device, *, is_tiny: bool) -> None:
    """Save the model `bench` of the architecture, in the device's precision, and its safety checker."""
    precision = str(device.dtype).removeprefix("torch.")
    (folder / "cards").mkdir(parents=True)
    with quiet():
        pipeline_of(architecture, device.name, device.dtype).save_pretrained(folder / MODEL)
        _save_safety_checker(folder / _SAFETY, TINY_VISION if is_tiny else SAFETY_VISION)
    drawing = {
        "width": architecture.side,
        "height": architecture.side,
        "size_multiple": architecture.factor,
        "min_size": architecture.side,
        "max_size": architecture.side,
        "vae_factor": architecture.factor,
        "prediction_type": architecture.prediction_type,
        "sampler": architecture.sampler,
        "samplers": [architecture.sampler],
        "steps": architecture.steps,
        "guidance_scale": architecture.guidance_scale,
        "modes": ["text2image"],
        "safety_checker": _SAFETY,
    }
    _write_card(folder, MODEL, {"family": "text2image", "precision": precision, **drawing})
    _write_card(folder, _SAFETY, {"family": "safety-checker", "precision": precision})


def _write_card(folder: Path, card_id: str, fields: dict[str, Any]) -> None:
    fields = {"id": card_id, "source": card_id, **_ABOUT, **fields}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in fields.items()]
    (folder / "cards" / f"{card_id}.toml").write_text("".join(lines), encoding="utf-8")


def _save_safety_checker(folder: Path, vision: Any) -> None:
    """Save one that flags nothing: its thresholds are high."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: PLC0415
    from transformers import CLIPConfig, CLIPImageProcessorPil  # noqa: PLC0415

    width, side = vision["projection_dim"], vision["image_size"]
    torch.manual_seed(1)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=dict(vision), projection_dim=width))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(2.0)
        checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(folder)
    size = {"height": side, "width": side}
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size).save_pretrained(folder)
