"""The x4 upscaler: the library's pictures, whatever stands beside them."""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from models.errors import InterruptedRender
from models.families.upscaler import Upscaler, UpscaleRequest
from models.store.resolve_checkpoint import Checkpoint

Make = Callable[..., UpscaleRequest]


def _small(seed: int, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def small() -> Make:
    def make(**given: Any) -> UpscaleRequest:
        defaults: dict[str, Any] = {
            "pixels": _small(0),
            "prompt": "a red bird",
            "steps": 2,
            "guidance_scale": 4.0,
            "sampler": "ddim",
            "seed": 1,
        }
        return UpscaleRequest(**(defaults | given))

    return make


@pytest.mark.parametrize(
    ("sampler", "guidance"), [("DDIMScheduler", 4.0), ("EulerAncestralDiscreteScheduler", 1.0)]
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_draws_what_the_library_draws(
    upscaler: Upscaler, upscaler_checkpoint: Checkpoint, small: Make, sampler: str, guidance: float
) -> None:
    reference = diffusers.StableDiffusionUpscalePipeline.from_pretrained(
        upscaler_checkpoint.path, local_files_only=True
    )
    reference.set_progress_bar_config(disable=True)
    reference.scheduler = getattr(diffusers, sampler).from_config(reference.scheduler.config)
    pixels = np.stack([_small(seed) for seed in range(4)])
    expected = reference(
        ["a red bird", "two", "", "x"],
        image=torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255,
        num_inference_steps=3,
        guidance_scale=guidance,
        noise_level=50,
        negative_prompt=["dark"] * 4,
        generator=[torch.Generator().manual_seed(seed) for seed in range(4)],
        output_type="np",
    ).images
    requests = [
        small(
            pixels=pixels[seed],
            prompt=prompt,
            negative_prompt="dark",
            noise_level=50,
            steps=3,
            guidance_scale=guidance,
            sampler="ddim" if sampler.startswith("DDIM") else "euler_a",
            seed=seed,
        )
        for seed, prompt in enumerate(["a red bird", "two", "", "x"])
    ]
    pictures = upscaler.render(requests, rows=4)
    enlarged = np.stack([picture.pixels for picture in pictures])
    assert enlarged.shape == (4, 64, 96, 3)
    assert np.abs(enlarged / 255 - expected).max() <= 1 / 255
    assert all(picture.defect is None for picture in pictures)


def test_a_picture_does_not_depend_on_its_neighbours(upscaler: Upscaler, small: Make) -> None:
    wanted = small(pixels=_small(9), seed=9)
    others = [small(pixels=_small(i), seed=i, prompt=f"cat {i}") for i in range(5)]
    mixes = [[wanted], [*others[:3], wanted], [*others, wanted], [others[4], wanted]]
    pictures = [upscaler.render(mix)[-1].pixels for mix in mixes]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures[1:])


def test_pixels_prompt_seed_and_noise_level_matter(upscaler: Upscaler, small: Make) -> None:
    alike = [small(), small(pixels=_small(1)), small(prompt="a green lake"), small(seed=2)]
    pictures = [
        p.pixels.astype(int) for p in (*upscaler.render(alike), *upscaler.render([small(noise_level=300)]))
    ]
    for index, picture in enumerate(pictures):
        assert all(np.abs(picture - other).mean() > 0.1 for other in pictures[:index])


def test_enlarged_noise_is_neither_flat_nor_clipped(upscaler: Upscaler, small: Make) -> None:
    for picture in upscaler.render([small(pixels=_small(seed, 32, 32), seed=seed) for seed in range(4)]):
        assert 90 < picture.pixels.mean() < 165
        assert 25 < picture.pixels.std() < 60
        assert ((picture.pixels == 0) | (picture.pixels == 255)).mean() < 0.02


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise_level": 351}, r"noise_level must be in 0..350"),
        ({"noise_level": -1}, r"noise_level must be in 0..350"),
        ({"pixels": np.zeros((8, 8), np.uint8)}, "pixels must be"),
        ({"pixels": np.zeros((8, 8, 3), np.float32)}, "pixels must be"),
    ],
)
def test_refuses_what_it_cannot_enlarge(
    upscaler: Upscaler, small: Make, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        upscaler.render([small(**given)])


def test_refuses_sizes_that_share_no_batch(upscaler: Upscaler, small: Make) -> None:
    with pytest.raises(ValueError, match="must share their size"):
        upscaler.render([small(), small(pixels=_small(0, 32, 32))])


def test_noise_levels_steps_samplers_and_guidance_stand_beside_each_other(
    upscaler: Upscaler, small: Make
) -> None:
    requests = [
        small(),
        small(noise_level=5),
        small(steps=5, sampler="heun"),
        small(guidance_scale=1.0, seed=8),
    ]
    together = upscaler.render(requests, rows=2)
    for request, picture in zip(requests, together, strict=True):
        [alone] = upscaler.render([request], rows=2)
        assert np.array_equal(picture.pixels, alone.pixels)


def test_can_be_interrupted(upscaler: Upscaler, small: Make) -> None:
    def stop(step: int) -> None:
        if step == 1:
            raise InterruptedRender

    with pytest.raises(InterruptedRender):
        upscaler.render([small()], on_step=stop)
    assert upscaler.render([]) == []
