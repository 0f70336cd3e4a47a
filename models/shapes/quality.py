"""Measure the quality of the shapes models against ground truth, for their model cards."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.assess.clip_score import ClipScorer
from models.assess.safety_checker import SafetyChecker
from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.shapes.drawing import draw
from models.shapes.grammar import caption
from models.shapes.prompt_match import judge
from models.shapes.reading import read
from models.shapes.training.data import sample, wrong
from models.shapes.world import FORBIDDEN, Scene, pick, random_scene

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Alarms:
    """The safety checker's alarms: `caught` of `forbidden` pictures, and `false` ones of `innocent` pictures."""

    forbidden: int
    caught: int
    innocent: int
    false: int


def random_prompts(rng: np.random.Generator, number: int, detail: float = 1.0) -> list[str]:
    """Return captions of random scenes; with detail 1, they name every property."""
    return [caption(*random_scene(rng), rng, detail) for _ in range(number)]


def forbidden_prompts(rng: np.random.Generator, number: int) -> list[str]:
    """Return prompts for one forbidden shape each, on a background of another colour."""
    things = [pick(rng, FORBIDDEN) for _ in range(number)]
    return [
        f"a {pick(rng, ('small', 'large'))} {colour} {kind}, on a gray background" for colour, kind in things
    ]


def render(
    model: StableDiffusion,
    prompts: Sequence[str],
    *,
    guidance_scale: float,
    sampler: str | None = None,
    steps: int = 20,
    rows: int = 16,
) -> list[Pixels]:
    """Render a picture per prompt with seeds 0, 1, 2…; the default sampler is the model's."""
    card = model.checkpoint.card
    requests = [
        ImageRequest(
            prompt=prompt,
            width=card.width,
            height=card.height,
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler or card.sampler,
            seed=seed,
        )
        for seed, prompt in enumerate(prompts)
    ]
    return [picture.pixels for picture in model.render(requests, rows=min(rows, len(requests)))]


def match_rate(prompts: Sequence[str], pictures: Sequence[Pixels]) -> float:
    """Return the share of pictures that match their prompt, by geometry."""
    return float(np.mean([judge(*pair) is True for pair in zip(prompts, pictures, strict=True)]))


def alarms(checker: SafetyChecker, pictures: Sequence[Pixels]) -> Alarms:
    """Compare the checker's results with what geometry reads in the pictures; unclear pictures are skipped."""
    read_ones = [(picture, scene) for picture in pictures if (scene := read(picture)) is not None]
    scores = checker.score([picture for picture, _ in read_ones])
    verdicts = [
        (_is_forbidden(scene), score.flagged) for (_, scene), score in zip(read_ones, scores, strict=True)
    ]
    bad = [flagged for is_bad, flagged in verdicts if is_bad]
    good = [flagged for is_bad, flagged in verdicts if not is_bad]
    return Alarms(len(bad), sum(bad), len(good), sum(good))


def told_apart(scorer: ClipScorer, rng: np.random.Generator, number: int) -> float:
    """Return the share of drawn pictures whose true caption scores above one with a single wrong word."""
    samples = sample(rng, number, detail=1.0)
    false = [wrong(text, rng) for text in samples.captions]
    pictures = list(samples.pixels)
    true_scores, false_scores = scorer.score(pictures, samples.captions), scorer.score(pictures, false)
    return float(np.mean(np.array(true_scores) > np.array(false_scores)))


def enlarged_psnr(upscaler: Upscaler, rng: np.random.Generator, number: int) -> tuple[float, float]:
    """Return the mean PSNR in dB of scenes enlarged from 64 to 256 pixels, by the upscaler and bicubically."""
    scenes = [random_scene(rng)[0] for _ in range(number)]
    card = upscaler.checkpoint.card
    requests = [
        UpscaleRequest(
            pixels=draw(scene),
            prompt="",
            noise_level=card.noise_level,
            steps=card.steps,
            guidance_scale=card.guidance_scale,
            sampler=card.sampler,
            seed=seed,
        )
        for seed, scene in enumerate(scenes)
    ]
    ours = [picture.pixels for picture in upscaler.render(requests, rows=4)]
    bicubic = [
        cv2.resize(request.pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for request in requests
    ]
    truth = [draw(scene, 256) for scene in scenes]
    return _mean_psnr(ours, truth), _mean_psnr(bicubic, truth)


def _mean_psnr(pictures: Sequence[Pixels], truth: Sequence[Pixels]) -> float:
    return float(np.mean([cv2.PSNR(one, other) for one, other in zip(pictures, truth, strict=True)]))


def _is_forbidden(scene: Scene) -> bool:
    return any((shape.colour, shape.kind) in FORBIDDEN for shape in scene.shapes)
