"""Where denoising starts: from noise or from a picture with noise on it, and what the UNet reads beside that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.chunks import draw
from models.depth import DepthEstimator
from models.encode import encode, encode_masked, scaled_depth, signed
from models.modes import Mode
from models.samplers import start_late

if TYPE_CHECKING:
    from models.stable_diffusion import ImageRequest


@dataclass(frozen=True)
class Start:
    """`latents` (N, C, h, w) float32, as noisy as the sampler has them at the first of `timesteps`.

    `beside`, (N, D, h, w), is put beside them for the UNet, if it takes more.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    beside: torch.Tensor | None


def start(
    rows: Sequence["ImageRequest"],
    mode: Mode,
    *,
    vae: Any,
    scheduler: Any,
    generators: Sequence[torch.Generator],
    estimator: DepthEstimator | None,
    device: str,
) -> Start:
    """The start of a batch. Each row draws from its generator what diffusers' pipeline would, in that order."""
    first = rows[0]
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = (first.height // factor, first.width // factor)
    pictures = [row.image for row in rows if row.image is not None]
    images = signed(pictures, device) if pictures else None
    is_from_image = images is not None and not (mode == "inpaint" and first.strength == 1)
    encoded = encode(vae, images, generators) if images is not None and is_from_image else None
    noise = draw(generators, (vae.config.latent_channels, *size)).to(device)
    beside: torch.Tensor | None = None
    if mode == "inpaint" and images is not None:
        masks = [row.mask for row in rows if row.mask is not None]
        beside = encode_masked(vae, images, masks, generators)
    elif mode == "depth":
        beside = scaled_depth(_depths(rows, estimator), *size).to(device)
    timesteps = scheduler.timesteps if images is None else start_late(scheduler, first.steps, first.strength)
    if encoded is None:
        return Start(noise * scheduler.init_noise_sigma, timesteps, beside)
    return Start(scheduler.add_noise(encoded, noise, timesteps[:1]), timesteps, beside)


def _depths(rows: Sequence["ImageRequest"], estimator: DepthEstimator | None) -> torch.Tensor:
    """The maps given, or else estimates, (N, h, w) on the CPU."""
    maps = [row.depth for row in rows if row.depth is not None]
    if maps:
        return torch.from_numpy(np.stack(maps))
    assert estimator is not None
    return estimator.estimate([row.image for row in rows if row.image is not None]).cpu()
