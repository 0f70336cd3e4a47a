"""Half precision, tried on the CPU: the same pictures, less exact."""

import numpy as np
import pytest
import torch

from models.catalogue.samplers import SAMPLERS
from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.runtime.device import Device
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint


def _half(dtype: torch.dtype) -> Device:
    return Device("cpu", dtype, "a CPU made to compute in half precision", rows=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_the_same(
    tiny: StableDiffusion, tiny_checkpoint: Checkpoint, dtype: torch.dtype
) -> None:
    with quiet():
        model = StableDiffusion.load(tiny_checkpoint, _half(dtype))
    assert model.pipeline.unet.dtype == dtype
    assert model.pipeline.vae.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    for sampler in SAMPLERS:
        requests = [
            ImageRequest(
                prompt="a", width=64, height=64, steps=3, guidance_scale=scale, sampler=sampler, seed=1
            )
            for scale in (7.3, 2.0)
        ]
        for half, full in zip(model.render(requests), tiny.render(requests, rows=2), strict=True):
            assert half.defect is None
            assert np.abs(half.pixels.astype(int) - full.pixels).mean() < 2.5


def test_half_precision_enlarges_nearly_the_same(upscaler: Upscaler, upscaler_checkpoint: Checkpoint) -> None:
    with quiet():
        model = Upscaler.load(upscaler_checkpoint, _half(torch.bfloat16))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    request = UpscaleRequest(
        pixels=pixels, prompt="a", steps=2, guidance_scale=4.0, sampler="euler_a", seed=1
    )
    [half], [full] = model.render([request]), upscaler.render([request], rows=2)
    assert np.abs(half.pixels.astype(int) - full.pixels).mean() < 2.5


def test_the_libraries_may_chatter_again_afterwards() -> None:
    from diffusers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_on_the_device_is_float64(tiny: StableDiffusion, sampler: str) -> None:
    """Apple's GPUs have no float64, to which NumPy and the samplers tend."""
    seen: list[tuple[str, torch.dtype]] = []

    def look(module: torch.nn.Module, arguments: tuple[object, ...], named: dict[str, object]) -> None:
        given = (*arguments, *named.values())
        seen.extend((type(module).__name__, x.dtype) for x in given if isinstance(x, torch.Tensor))

    unet, vae = tiny.pipeline.unet, tiny.pipeline.vae
    networks = (unet.conv_in, unet.time_proj, unet.mid_block, vae.encoder, vae.decoder)
    hooks = [network.register_forward_pre_hook(look, with_kwargs=True) for network in networks]
    image = np.zeros((64, 64, 3), np.uint8)
    request = ImageRequest(
        prompt="a",
        width=64,
        height=64,
        steps=4,
        guidance_scale=3,
        sampler=sampler,
        seed=1,
        strength=0.8,
        image=image,
    )
    tiny.render([request, request], rows=2)
    for hook in hooks:
        hook.remove()
    assert {name for name, _ in seen} == {
        "Conv2d", "Timesteps", "UNetMidBlock2DCrossAttn", "Encoder", "Decoder"
    }  # fmt: skip
    assert {dtype for _, dtype in seen} <= {torch.float32, torch.int64}
