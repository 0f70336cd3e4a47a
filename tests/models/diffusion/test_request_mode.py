"""From pictures, masks and depth maps: the library's pictures, whatever stands beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from models.catalogue.samplers import SAMPLERS
from models.diffusion.requests import ImageRequest
from models.engine.schedulers import make_scheduler
from models.families.stable_diffusion import StableDiffusion
from models.runtime.library_logging import quiet

Make = Callable[..., ImageRequest]

_PROMPTS = ["a red bird", "", "a dog", "two cats"]
_RNG = np.random.default_rng(0)
_IMAGES = _RNG.integers(0, 256, (4, 64, 72, 3), dtype=np.uint8)
_DEPTHS = _RNG.random((4, 64, 72), dtype=np.float32) * 30 - 7
_MASKS = np.zeros((4, 64, 72), np.uint8)
_MASKS[:, 16:56, 20:] = 255
_MASKS[1, 8:16] = 127
_MASKS[2, :, 40:50] = 128

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning", "ignore:In CPU autocast"
)


@pytest.fixture(scope="module")
def library() -> Callable[..., np.ndarray]:
    """What a diffusers pipeline of a model draws for seeds 0 to 3, (4, H, W, 3) in 0..1."""

    loaded: dict[Path, Any] = {}

    def load(name: str, folder: Path) -> Any:
        if folder not in loaded:
            left_out = {} if "Depth" in name else {"safety_checker": None, "requires_safety_checker": False}
            with quiet():
                loaded[folder] = getattr(diffusers, name).from_pretrained(
                    folder, local_files_only=True, **left_out
                )
            loaded[folder].set_progress_bar_config(disable=True)
        return loaded[folder]

    def draw(model: StableDiffusion, name: str, sampler: str, guidance: float = 5.0, **given: Any) -> Any:
        pipeline = load(name, model.checkpoint.path)
        pipeline.scheduler = make_scheduler(sampler, pipeline.scheduler.config)
        return pipeline(
            _PROMPTS,
            negative_prompt=["dark"] * 4,
            generator=[torch.Generator().manual_seed(seed) for seed in range(4)],
            guidance_scale=guidance,
            output_type="np",
            **given,
        ).images

    return draw


def _units(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def _requests(make: Make, sampler: str, guidance: float = 5.0, **given: Any) -> list[ImageRequest]:
    """One request a prompt; arrays in `given` are cut up, a row each."""
    return [
        make(
            prompt=prompt,
            negative_prompt="dark",
            width=72,
            sampler=sampler,
            guidance_scale=guidance,
            seed=seed,
            **{
                name: value[seed] if isinstance(value, np.ndarray) else value for name, value in given.items()
            },
        )
        for seed, prompt in enumerate(_PROMPTS)
    ]


def _pixels(model: StableDiffusion, requests: list[ImageRequest]) -> np.ndarray:
    pictures = model.render(requests, rows=4)
    assert [picture.defect for picture in pictures] == [None] * 4
    return np.stack([picture.pixels for picture in pictures])


@pytest.mark.parametrize(
    ("system", "sampler", "strength", "guidance"),
    [
        *(("v1", sampler, 0.65, 5.0) for sampler in SAMPLERS),
        *(("v2", sampler, 0.65, 1.0) for sampler in SAMPLERS),
        *(("v2-base", sampler, 1.0, 5.0) for sampler in ("pndm", "heun", "unipc")),
        ("v1", "euler_a", 0.2, 5.0),
    ],
)
def test_image_to_image_is_the_librarys(
    *,
    load: Callable[[str], StableDiffusion],
    library: Callable[..., Any],
    image: Make,
    system: str,
    sampler: str,
    strength: float,
    guidance: float,
) -> None:
    model = load(system)
    expected = library(
        model,
        "StableDiffusionImg2ImgPipeline",
        sampler,
        guidance,
        image=_units(_IMAGES),
        num_inference_steps=6,
        strength=strength,
    )
    drawn = _pixels(model, _requests(image, sampler, guidance, image=_IMAGES, steps=6, strength=strength))
    assert np.abs(drawn / 255 - expected).max() <= 1 / 255


@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize(
    ("system", "sampler"),
    [("v1-inpainting", "pndm"), ("v2-inpainting", "euler_a"), ("v2-inpainting", "heun")],
)
def test_inpainting_is_the_librarys_and_keeps_what_the_mask_keeps(
    *,
    load: Callable[[str], StableDiffusion],
    library: Callable[..., Any],
    image: Make,
    system: str,
    sampler: str,
    strength: float,
) -> None:
    model = load(system)
    expected = library(
        model,
        "StableDiffusionInpaintPipeline",
        sampler,
        image=_units(_IMAGES),
        mask_image=torch.from_numpy(_MASKS)[:, None] / 255,
        height=64,
        width=72,
        num_inference_steps=6,
        strength=strength,
    )
    drawn = _pixels(model, _requests(image, sampler, image=_IMAGES, mask=_MASKS, steps=6, strength=strength))
    assert np.array_equal(drawn[_MASKS == 0], _IMAGES[_MASKS == 0])
    assert np.abs(drawn / 255 - expected)[_MASKS == 255].max() <= 1 / 255
    share = _MASKS[..., None] / 255
    assert np.abs(drawn - (share * expected * 255 + (1 - share) * _IMAGES)).max() <= 2


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m_karras"])
@pytest.mark.parametrize("map_given", [True, False])
def test_depth_is_the_librarys(
    *,
    load: Callable[[str], StableDiffusion],
    library: Callable[..., Any],
    image: Make,
    sampler: str,
    map_given: bool,
) -> None:
    model = load("v2-depth")
    expected = library(
        model,
        "StableDiffusionDepth2ImgPipeline",
        sampler,
        image=[Image.fromarray(picture) for picture in _IMAGES],
        depth_map=torch.from_numpy(_DEPTHS) if map_given else None,
        num_inference_steps=5,
        strength=0.8,
    )
    given = {"depth": _DEPTHS} if map_given else {}
    drawn = _pixels(model, _requests(image, sampler, image=_IMAGES, steps=5, strength=0.8, **given))
    assert np.abs(drawn / 255 - expected).max() <= 1 / 255
