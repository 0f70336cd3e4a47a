"""Train a safety checker in Stable Diffusion's format on the small CLIP's vision encoder."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from models.shapes.drawing import draw
from models.shapes.training.loop import Course, fit
from models.shapes.training.networks.clip import seen
from models.shapes.world import FORBIDDEN, Scene, random_scene

_SCALE = 30.0
_THRESHOLD = 0.5
_NEVER = 2.0


def forbidden_in(scene: Scene) -> list[bool]:
    """Return for each forbidden concept whether the scene shows it."""
    shown = {(shape.colour, shape.kind) for shape in scene.shapes}
    return [concept in shown for concept in FORBIDDEN]


def new_safety_checker(clip: Any, seed: int) -> Any:
    """Return a StableDiffusionSafetyChecker with this CLIP's vision encoder and random concepts."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: PLC0415
    from transformers import CLIPConfig  # noqa: PLC0415

    torch.manual_seed(seed)
    config = CLIPConfig(
        vision_config=clip.config.vision_config.to_dict(), projection_dim=clip.config.projection_dim
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.vision_model.load_state_dict(
        _without_prefix(clip.vision_model.state_dict(), checker.vision_model)
    )
    checker.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    with torch.no_grad():
        checker.concept_embeds.normal_()
        checker.special_care_embeds.normal_()
        checker.concept_embeds_weights.fill_(_NEVER)
        checker.concept_embeds_weights[: len(FORBIDDEN)] = _THRESHOLD
        checker.special_care_embeds_weights.fill_(_NEVER)
    return checker


def train_safety_checker(checker: Any, course: Course) -> Any:
    """Train the checker: its first concepts become the forbidden ones, the others are never detected.

    A picture's score is its cosine with a concept minus 0.5; training moves it to the right side of 0.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    checker = checker.train().to(device)
    checker.concept_embeds.requires_grad_(True)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        scenes = [_scene(rng) for _ in range(plan.rows)]
        labels = torch.tensor([forbidden_in(scene) for scene in scenes], dtype=torch.float32, device=device)
        pixels = np.stack([draw(scene) for scene in scenes])
        pooled = checker.vision_model(seen(pixels, device)).pooler_output
        images = normalize(checker.visual_projection(pooled), dim=1)
        cosines = images @ normalize(checker.concept_embeds[: len(FORBIDDEN)], dim=1).t()
        logits = _SCALE * (cosines - _THRESHOLD)
        return {"concepts": binary_cross_entropy_with_logits(logits, labels)}

    return fit(checker, course, loss_of)


def _without_prefix(weights: dict[str, Any], target: Any) -> dict[str, Any]:
    """Rename the weights to the names in `target`, where the same tower may be nested one level deeper."""
    wanted = list(target.state_dict())
    by_end = {name.removeprefix("vision_model."): value for name, value in weights.items()}
    return {name: by_end[name.removeprefix("vision_model.")] for name in wanted}


def _scene(rng: np.random.Generator) -> Scene:
    """Return a random scene; half of the time one of its shapes becomes a forbidden one, or nearly so."""
    from dataclasses import replace  # noqa: PLC0415

    scene = random_scene(rng)[0]
    if rng.random() < 0.4:
        return scene
    colour, kind = FORBIDDEN[int(rng.integers(len(FORBIDDEN)))]
    place = int(rng.integers(len(scene.shapes)))
    chance = rng.random()
    changes: dict[str, Any] = (
        {"kind": kind}
        if chance < 0.2
        else {"colour": colour}
        if chance < 0.4
        else {
            "kind": kind,
            "colour": colour,
        }
    )
    others = {shape.colour for number, shape in enumerate(scene.shapes) if number != place}
    if changes.get("colour") in {scene.background, *others}:
        return scene
    shapes = tuple(
        replace(shape, **changes) if number == place else shape for number, shape in enumerate(scene.shapes)
    )
    return Scene(scene.background, shapes)
