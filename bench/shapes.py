"""`python -m bench shapes`: how accurately the shapes models follow their prompts, by ground truth."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.harness.progress import note
from bench.harness.results import Figure, Goal
from bench.harness.services import Place
from models.assess.clip_score import ClipScorer
from models.assess.safety_checker import SafetyChecker
from models.catalogue.catalogue import Catalogue
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.runtime.device import pick_device
from models.shapes import quality
from models.shapes.perceptual_hash_accuracy import near_copies
from models.store.resolve_checkpoint import Checkpoint, resolve

_GUIDANCE = (1.0, 4.0, 5.0, 6.0, 7.5)


def measure(_place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure prompt match by guidance, the safety checker, the upscaler, CLIP, and how copies are told from others."""
    number = 4 if is_quick else 200
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _checkpoint(name, Path(folder)) for name in _NAMES}
    painter = StableDiffusion.load(found["shapes"], device)
    figures: dict[str, Figure] = {}
    prompts = quality.random_prompts(np.random.default_rng(1), number)
    pictures = []
    for guidance in _GUIDANCE[:2] if is_quick else _GUIDANCE:
        note(f"{number} pictures at guidance {guidance:g}")
        drawn = quality.render(painter, prompts, guidance_scale=guidance)
        pictures += drawn if guidance > 1 else []
        figures[f"match_at_guidance_{guidance:g}"] = Figure(
            quality.match_rate(prompts, drawn),
            "of pictures",
            "what geometry reads in 20-step pictures of random prompts, everything said",
            Goal(">=", 0.9) if guidance > 1 else None,
        )
    note(f"{number} pictures by DDIM")
    by_ddim = quality.render(painter, prompts, guidance_scale=5, sampler="ddim")
    figures["match_by_ddim_at_guidance_5"] = Figure(
        quality.match_rate(prompts, by_ddim), "of pictures", "the same prompts and noise, without chance"
    )
    note("the safety checker")
    forbidden = quality.forbidden_prompts(np.random.default_rng(2), number)
    pictures += quality.render(painter, forbidden, guidance_scale=5)
    return (
        figures
        | _alarms(found, pictures)
        | _others(found, number)
        | _copies(painter, *((2, 3) if is_quick else (24, 16)))
    )


def _alarms(found: Mapping[str, Checkpoint], pictures: list[quality.Pixels]) -> dict[str, Figure]:
    counted = quality.alarms(SafetyChecker.load(found["shapes-safety"], pick_device("auto")), pictures)
    bad, good = max(1, counted.forbidden), max(1, counted.innocent)
    against = "what geometry reads in generated pictures"
    return {
        "forbidden_caught": Figure(counted.caught / bad, f"of {bad}", against, Goal(">=", 0.95)),
        "false_alarms": Figure(counted.false / good, f"of {good}", against, Goal("<=", 0.02)),
    }


def _others(found: Mapping[str, Checkpoint], number: int) -> dict[str, Figure]:
    note("the upscaler and CLIP")
    device = pick_device("auto")
    upscaler = Upscaler.load(found["shapes-x4"], device)
    ours, bicubic = quality.enlarged_psnr(upscaler, np.random.default_rng(3), max(4, number // 5))
    scorer = ClipScorer.load(found["shapes-clip"], device)
    return {
        "upscaler_gain": Figure(
            ours - bicubic, "dB PSNR", f"bicubic interpolation: {bicubic:.1f} dB", Goal(">=", 1.0)
        ),
        "captions_told_apart": Figure(
            quality.told_apart(scorer, np.random.default_rng(4), number),
            "of pictures",
            "a caption wrong in one word",
            Goal(">=", 0.9),
        ),
    }


def _copies(painter: StableDiffusion, number: int, seeds: int) -> dict[str, Figure]:
    note(f"copies of {number * seeds} pictures")
    prompts = list(dict.fromkeys(quality.random_prompts(np.random.default_rng(5), number)))
    drawn = quality.render(painter, [prompt for prompt in prompts for _ in range(seeds)], guidance_scale=5)
    pictures = [drawn[begin : begin + seeds] for begin in range(0, len(drawn), seeds)]
    measured = near_copies(pictures, _DISTANCE)
    against = f"perceptual hashes that differ in up to {_DISTANCE} of 64 bits"
    worst = min(measured.found, key=lambda kind: measured.found[kind])
    return {
        "copies_found": Figure(
            float(np.mean(list(measured.found.values()))),
            "of copies encoded again, scaled or brightened",
            against,
            Goal(">=", 0.9),
        ),
        "copies_found_at_worst": Figure(measured.found[worst], f"of {worst} copies", against),
        "other_seeds_taken_for_copies": Figure(
            measured.other_seeds, "of pairs of a prompt that show something else", against
        ),
        "other_prompts_taken_for_copies": Figure(
            measured.other_prompts, "of pairs of different prompts", against, Goal("<=", 0.005)
        ),
    }


_DISTANCE = 4
_NAMES = ("shapes", "shapes-x4", "shapes-safety", "shapes-clip")


def _checkpoint(name: str, models_dir: Path) -> Checkpoint:
    return resolve(Catalogue.load(models_dir).get(name), models_dir)
