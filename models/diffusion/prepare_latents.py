"""Initial latents of a request, from noise or a noised image, and the UNet's extra input channels."""

from typing import Any

import torch

from models.diffusion.depth import DepthEstimator
from models.diffusion.request_mode import Mode
from models.diffusion.requests import ImageRequest
from models.diffusion.vae_encode import encode, encode_masked, scaled_depth, signed
from models.engine.sampler_matrices import SamplerMatrices
from models.runtime.padding_and_noise import draw, moved


def start(
    request: ImageRequest,
    mode: Mode,
    *,
    vae: Any,
    matrices: SamplerMatrices,
    generator: torch.Generator,
    estimator: DepthEstimator | None,
    device: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return latents (C, h, w) float32 at the noise level of the first step, and extra channels (D, h, w) or None.

    Random numbers are drawn from `generator` in the same order as in diffusers' pipelines.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = (request.height // factor, request.width // factor)
    image = None if request.image is None else signed(request.image, device)
    is_from_image = image is not None and not (mode == "inpaint" and request.strength == 1)
    encoded = encode(vae, image, generator) if image is not None and is_from_image else None
    noise = moved(draw(generator, (1, vae.config.latent_channels, *size)), device)
    beside: torch.Tensor | None = None
    if mode == "inpaint" and image is not None and request.mask is not None:
        beside = encode_masked(vae, image, request.mask, generator)[0]
    elif mode == "depth":
        beside = scaled_depth(_depth(request, estimator, device), *size)[0]
    if encoded is None:
        return (noise * matrices.of_noise_alone)[0], beside
    return (matrices.of_image * encoded + matrices.of_noise * noise)[0], beside


def _depth(request: ImageRequest, estimator: DepthEstimator | None, device: str) -> torch.Tensor:
    """Return the given depth map, or else an estimate, (1, h, w)."""
    if request.depth is not None:
        return moved(torch.from_numpy(request.depth)[None], device)
    assert estimator is not None
    assert request.image is not None
    return estimator.estimate([request.image])
