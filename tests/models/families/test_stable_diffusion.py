"""Text to image: the library's pictures, whatever stands beside them."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from models.catalogue.samplers import SAMPLERS
from models.diffusion.requests import ImageRequest
from models.errors import InterruptedRender
from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint
from tests.models.streaming import stream

Make = Callable[..., ImageRequest]

_REFERENCE: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
_GUIDANCE = (7.5, 1.0)
_PROMPTS = ["a red bird", "", "🦊 two foxes at night", "many " * 100]


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Checkpoint) -> Any:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_checkpoint.path, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def base_config(tiny: StableDiffusion) -> dict[str, Any]:
    return dict(tiny.pipeline.scheduler.config)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("guidance", _GUIDANCE)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_what_the_library_draws(
    *,
    tiny: StableDiffusion,
    reference: Any,
    base_config: dict[str, Any],
    image: Make,
    sampler: str,
    guidance: float,
) -> None:
    name, options = _REFERENCE[sampler]
    reference.scheduler = getattr(diffusers, name).from_config(base_config, **options)
    expected = reference(
        _PROMPTS,
        negative_prompt=["blurry"] * 4,
        height=64,
        width=72,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in range(4)],
        output_type="np",
    ).images
    requests = [
        image(
            prompt=prompt,
            negative_prompt="blurry",
            width=72,
            steps=4,
            guidance_scale=guidance,
            sampler=sampler,
            seed=seed,
        )
        for seed, prompt in enumerate(_PROMPTS)
    ]
    pictures = tiny.render(requests, rows=4)
    pixels = np.stack([picture.pixels for picture in pictures])
    assert pixels.dtype == np.uint8
    assert np.abs(pixels / 255 - expected).max() <= 1 / 255
    assert all(picture.defect is None for picture in pictures)


def _neighbour(image: Make, number: int) -> ImageRequest:
    """Every sampler, with steps and guidance that differ."""
    return image(
        prompt=f"dog {number}",
        seed=number,
        sampler=SAMPLERS[number % len(SAMPLERS)],
        steps=2 + number % 3,
        guidance_scale=(1.0, 4.0, 7.5)[number % 3],
    )


def _wanted(image: Make, sampler: str, guidance: float) -> ImageRequest:
    return image(prompt="a blue house", seed=42, sampler=sampler, guidance_scale=guidance, steps=3)


@pytest.fixture(scope="module")
def in_company(tiny: StableDiffusion, image: Make) -> Mapping[tuple[str, float], set[str]]:
    """The hashes of each wanted picture: beside itself, and in five streams of all of them and others, shuffled."""
    wanted = {how: _wanted(image, *how) for how in product(SAMPLERS, _GUIDANCE)}
    all_of_them = [*wanted, *(_neighbour(image, number) for number in range(9))]
    order = random.Random(0)
    streams = [order.sample(all_of_them, len(all_of_them)) for _ in range(5)]
    found: dict[tuple[str, float], set[str]] = defaultdict(set)
    for mix in ([how for how in wanted for _ in range(2)], *streams):
        for some in stream(tiny, [wanted.get(one, one) for one in mix], rows=2):
            for one in some:
                found[mix[one.key]].add(_hash(one.image.pixels))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", _GUIDANCE)
def test_a_picture_does_not_depend_on_its_neighbours(
    tiny: StableDiffusion,
    image: Make,
    in_company: Mapping[tuple[str, float], set[str]],
    sampler: str,
    guidance: float,
) -> None:
    [alone] = tiny.render([_wanted(image, sampler, guidance)], rows=2)
    assert in_company[sampler, guidance] == {_hash(alone.pixels)}


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_a_stream_asks_for_requests_as_rows_come_free(tiny: StableDiffusion, image: Make) -> None:
    asked = []

    def requests() -> Iterator[ImageRequest]:
        for number in range(20):
            asked.append(number)
            yield image(seed=number, steps=2 + number % 3)

    finished: list[int] = []
    for some in stream(tiny, requests(), rows=2):
        assert len(asked) - len(finished) <= 2 + 1 + 2, "two on their way, one waits, two to be decoded"
        finished += [int(str(one.key)) for one in some]
    assert sorted(finished) == list(range(20))
    assert finished != list(range(20)), "those with fewer steps overtake others"


def test_images_without_guidance_take_half_the_rows(tiny: StableDiffusion, image: Make) -> None:
    def calls(guidance: float) -> int:
        steps: list[int] = []
        requests = [image(seed=seed, steps=3, guidance_scale=guidance) for seed in range(4)]
        tiny.render(requests, rows=2, on_step=steps.append)
        assert steps == list(range(len(steps)))
        return len(steps)

    assert (calls(1.0), calls(7.5)) == (3, 6)


def test_prompts_seeds_and_guidance_make_different_pictures(tiny: StableDiffusion, image: Make) -> None:
    requests = [
        image(),
        image(prompt="a green lake"),
        image(seed=2),
        image(guidance_scale=3.0),
        image(negative_prompt="dark"),
        image(seed=2**64 - 1),
    ]
    pictures = [picture.pixels.astype(int) for picture in tiny.render(requests, rows=6)]
    for index, picture in enumerate(pictures):
        assert all(np.abs(picture - other).mean() > 0.5 for other in pictures[:index])


def test_noise_pictures_are_neither_flat_nor_clipped(tiny: StableDiffusion, image: Make) -> None:
    pictures = tiny.render([image(prompt=f"{seed} cats", seed=seed, steps=10) for seed in range(16)], rows=8)
    for picture in pictures:
        pixels = picture.pixels
        assert pixels.shape == (64, 64, 3)
        assert 90 < pixels.mean() < 165
        assert 25 < pixels.std() < 60
        assert ((pixels == 0) | (pixels == 255)).mean() < 0.02


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_few_and_many_steps(
    tiny: StableDiffusion, image: Make, sampler: str, steps: int
) -> None:
    [picture] = tiny.render([image(sampler=sampler, steps=steps, guidance_scale=1)], rows=1)
    assert picture.defect is None


@pytest.mark.parametrize("seed", [0, 2**32, 2**63, 2**64 - 1])
def test_takes_seeds_of_64_bits(tiny: StableDiffusion, image: Make, seed: int) -> None:
    [picture] = tiny.render([image(seed=seed, steps=1)], rows=1)
    [same] = tiny.render([image(seed=seed % 2**32, steps=1)], rows=1)
    is_same = np.array_equal(picture.pixels, same.pixels)
    assert is_same == (seed < 2**32), "torch's CPU generator reads the lower 32 bits only"


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_refuses_other_seeds(tiny: StableDiffusion, image: Make, seed: int) -> None:
    with pytest.raises(ValueError, match="a seed is a whole number"):
        tiny.render([image(seed=seed)])


@pytest.mark.parametrize("other", [{"width": 128}, {"height": 128}])
def test_refuses_sizes_that_share_no_batch(
    tiny: StableDiffusion, image: Make, other: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="must share their size"):
        tiny.render([image(), image(**other)])


def test_refuses_a_size_that_the_vae_cannot_have(tiny: StableDiffusion, image: Make) -> None:
    with pytest.raises(ValueError, match="multiples of 8, not 68x64"):
        tiny.render([image(width=68)])


def test_refuses_an_empty_batch_shape_and_renders_nothing_from_nothing(
    tiny: StableDiffusion, image: Make
) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        tiny.render([image()], rows=-1)
    assert tiny.render([]) == []


def test_pictures_keep_their_order_and_shape(tiny: StableDiffusion, image: Make) -> None:
    requests = [image(width=136, height=72, seed=seed) for seed in (5, 6, 7)]
    pictures = tiny.render(requests, rows=2)
    assert [picture.pixels.shape for picture in pictures] == [(72, 136, 3)] * 3
    assert np.array_equal(pictures[2].pixels, tiny.render(requests[2:], rows=2)[0].pixels)


def test_can_be_interrupted_between_steps_and_used_again(tiny: StableDiffusion, image: Make) -> None:
    before = tiny.render([image(sampler="dpmpp_2m")])[0]
    seen = []

    def stop(step: int) -> None:
        seen.append(step)
        if step == 4:
            raise InterruptedRender("stop")

    with pytest.raises(InterruptedRender, match="stop"):
        tiny.render([image(sampler="dpmpp_2m", seed=seed) for seed in range(8)], rows=4, on_step=stop)
    assert seen == [0, 1, 2, 3, 4]
    assert np.array_equal(tiny.render([image(sampler="dpmpp_2m")])[0].pixels, before.pixels)


def test_marks_pictures_that_are_not_finite_without_harming_others(
    tiny: StableDiffusion, tiny_checkpoint: Checkpoint, device: Device, image: Make
) -> None:
    broken = StableDiffusion.load(tiny_checkpoint, device)
    tokenizer, encoder = broken.pipeline.tokenizer, broken.pipeline.text_encoder
    [token] = tokenizer("cat", add_special_tokens=False).input_ids
    with torch.no_grad():
        encoder.get_input_embeddings().weight[token] = float("nan")
    requests = [image(prompt="a dog"), image(prompt="a cat"), image(prompt="a fish")]
    pictures = broken.render(requests)
    assert [picture.defect for picture in pictures] == [None, "nan", None]
    assert np.array_equal(pictures[2].pixels, tiny.render(requests)[2].pixels)


def test_marks_pictures_that_overflow_in_the_decoder_or_are_black(
    tiny_checkpoint: Checkpoint, device: Device, image: Make
) -> None:
    broken = StableDiffusion.load(tiny_checkpoint, device)
    bias = broken.pipeline.vae.decoder.conv_out.bias
    for value, defect in ((-9.0, "black"), (float("inf"), "nan")):
        with torch.no_grad():
            bias.fill_(value)
        assert [picture.defect for picture in broken.render([image(), image(seed=2)])] == [defect] * 2
