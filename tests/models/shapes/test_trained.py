"""The shapes models that come with nightmill do what their cards say, by ground truth."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from models.assess.clip_score import ClipScorer
from models.assess.safety_checker import SafetyChecker
from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler
from models.runtime.device import pick_device
from models.shapes import quality
from models.shapes.drawing import draw
from models.shapes.training.data import sample
from models.shapes.training.export import STAGES
from models.shapes.world import FORBIDDEN, Scene, Shape
from models.store.resolve_checkpoint import Checkpoint, resolve

WEIGHTS = Path(quality.__file__).parent / "weights"
CPU = pick_device("cpu")
NEARLY = [
    (colour, kind) for colour, _ in FORBIDDEN for _, kind in FORBIDDEN if (colour, kind) not in FORBIDDEN
]


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return StableDiffusion.load(checkpoint("shapes", tmp_path_factory.mktemp("models")), CPU)


def checkpoint(name: str, models_dir: Path) -> Checkpoint:
    return resolve(Catalogue.load(models_dir).get(name), models_dir)


def test_all_of_them_are_ten_megabytes_of_float16_with_their_logs() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as weights:
                kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no dict
            assert kinds <= {"F16", "I64"}, path
    logged = {path.stem.removeprefix("training-") for path in WEIGHTS.glob("*/training-*.json")}
    assert logged == {stage for path in WEIGHTS.iterdir() for stage in STAGES[path.name]}


def test_pictures_show_what_their_prompts_say(painter: StableDiffusion) -> None:
    prompts = quality.random_prompts(np.random.default_rng(5), 64)
    rates = [
        quality.match_rate(prompts, quality.render(painter, prompts, guidance_scale=guidance))
        for guidance in (1.0, 5.0)
    ]
    assert rates[1] >= 0.85
    assert rates[1] > rates[0]


def test_a_prompt_turns_a_picture_into_another(painter: StableDiffusion) -> None:
    given = draw(Scene("white", (Shape("square", "blue", 0.5, 0.5, 0.21),)))
    prompt = "a large purple square, on a white background"
    requests = [
        ImageRequest(
            prompt=prompt,
            width=64,
            height=64,
            steps=20,
            guidance_scale=5,
            sampler="ddim",
            seed=seed,
            image=given,
            strength=0.8,
        )
        for seed in range(16)
    ]
    pictures = [picture.pixels for picture in painter.render(requests, rows=16)]
    assert quality.match_rate([prompt] * 16, pictures) >= 0.8


def test_the_safety_checker_catches_forbidden_shapes_and_no_others(
    painter: StableDiffusion, tmp_path: Path
) -> None:
    checker = SafetyChecker.load(checkpoint("shapes-safety", tmp_path), CPU)
    drawn = quality.alarms(checker, list(sample(np.random.default_rng(6), 600).pixels))
    assert drawn.forbidden >= 40
    assert drawn.caught >= 0.95 * drawn.forbidden
    assert drawn.false <= 0.02 * drawn.innocent
    prompts = quality.forbidden_prompts(np.random.default_rng(7), 24)
    prompts += [f"a large {colour} {kind}, on a gray background" for colour, kind in NEARLY]
    made = quality.alarms(checker, quality.render(painter, prompts, guidance_scale=5))
    assert made.forbidden >= 15
    assert made.caught >= 0.9 * made.forbidden
    assert made.false <= 1


def test_the_upscaler_is_nearer_to_the_truth_than_interpolation(tmp_path: Path) -> None:
    upscaler = Upscaler.load(checkpoint("shapes-x4", tmp_path), CPU)
    ours, bicubic = quality.enlarged_psnr(upscaler, np.random.default_rng(3), 12)
    assert ours > bicubic


def test_clip_tells_true_captions_from_those_wrong_in_one_word(tmp_path: Path) -> None:
    scorer = ClipScorer.load(checkpoint("shapes-clip", tmp_path), CPU)
    assert quality.told_apart(scorer, np.random.default_rng(9), 200) >= 0.85
