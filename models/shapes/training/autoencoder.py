"""Training the autoencoders: f8 for pictures of 64 pixels, f4 for the upscaler's crops of large ones."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.shapes.training.data import weighed_pictures
from models.shapes.training.loop import Course, Plan, fit, half

Batch = Callable[[np.random.Generator, int], np.ndarray[Any, np.dtype[np.uint8]]]
_MOST_NOISE = 0.3
_LITTLE_NOISE = -5.0


@dataclass(frozen=True)
class Weights:
    """What squared errors and the divergence of latents from a unit normal count beside absolute errors."""

    squared: float = 2.0
    divergence: float = 1e-3


def signed(pixels: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> torch.Tensor:
    """(N, H, W, 3) uint8 pixels as (N, 3, H, W) float32 in -1..1."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)


def new_autoencoder(channels: tuple[int, ...], sample_size: int, seed: int) -> Any:
    """An untrained AutoencoderKL of `channels` by level, finest first."""
    from diffusers import AutoencoderKL  # noqa: PLC0415

    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=sample_size,
    )


def without_coarsest(vae: Any, batch: Batch, sample_size: int, seed: int) -> Any:
    """An autoencoder of one level less that has the other layers of this one, to be trained on.

    It knows colours and edges already, which took most of the time to learn.
    """
    shorter = new_autoencoder(vae.config.block_out_channels[:-1], sample_size, seed)
    known = vae.state_dict()
    weights = {name: known.get(_in_longer(name), fresh) for name, fresh in shorter.state_dict().items()}
    shorter.load_state_dict(weights)
    with torch.no_grad():
        shorter.quant_conv.bias[shorter.config.latent_channels :] = _LITTLE_NOISE
    pixels = batch(np.random.default_rng(seed), 64)
    fold_scale(shorter, signed(pixels, torch.device("cpu")), 1.0)
    return shorter


def _in_longer(name: str) -> str:
    """The decoder begins at the coarsest level, so that its blocks are counted one further there."""
    block = re.match(r"decoder\.up_blocks\.(\d+)\.", name)
    return f"decoder.up_blocks.{int(block[1]) + 1}.{name[block.end() :]}" if block else name


def train_autoencoder(
    vae: Any,
    scaling_factor: float,
    weights: Weights,
    batch: Batch,
    course: Course,
) -> Any:
    """Trains an AutoencoderKL, whose latents `scaling_factor` brings to deviation 1 in the end."""
    rng, plan, device = course.chance(), course.plan, course.device
    vae = vae.to(device, memory_format=torch.channels_last)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        pixels = signed(batch(rng, plan.rows), device)
        with half(device):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - pixels
        divergence = 0.5 * (
            posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()
        )
        return {
            "absolute": error.abs().mean(),
            "squared": weights.squared * error.square().mean(),
            "divergence": weights.divergence * divergence.mean(),
        }

    trained = fit(vae, course, loss_of)
    fold_scale(trained, signed(batch(rng, 256), device), scaling_factor)
    return trained


def even_out(vae: Any, course: Course) -> Any:
    """Trains the f8 autoencoder on until its latent channels are uncorrelated, of one deviation, and stand noise.

    The divergence alone leaves channels that say the same, mostly how bright it is: colours then lie within a few
    tenths of a deviation, which squared errors of a UNet hardly count. Covariances are penalised as by Bardes et al.
    (2022, VICReg); noise keeps what differs in a picture apart in its latents.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    vae = vae.train().requires_grad_(True).to(device, memory_format=torch.channels_last)
    channels, scaling_factor = vae.config.latent_channels, vae.config.scaling_factor
    unit = torch.eye(channels, device=device)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        pixels, weights = _weighed(rng, plan, device)
        with half(device):
            means = vae.encode(pixels).latent_dist.mean
            decoded = vae.decode(_noisy(means, means.std().detach())).sample
        cells = means.float().movedim(1, -1).flatten(0, 2)
        correlation = torch.cov(cells.t()) / cells.var().detach()
        return _errors(decoded, pixels, weights) | {
            "uneven": 0.05 * (correlation - unit).square().sum(),
            "large": 1e-3 * cells.square().mean(),
        }

    trained = fit(vae, course, loss_of)
    with torch.no_grad():
        trained.quant_conv.weight[channels:] = 0
        trained.quant_conv.bias[channels:] = _LITTLE_NOISE
    fold_scale(trained, _weighed(rng, replace(plan, rows=256), device)[0], scaling_factor)
    return trained


def train_decoder(vae: Any, course: Course) -> Any:
    """Trains the f8 decoder on, for latents as they are and for such as a UNet gives, which are a little off.

    The encoder stays, and with it what latents mean: a UNet may be trained beside this.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    vae = vae.to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        pixels, weights = _weighed(rng, plan, device)
        with half(device):
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample()
            decoded = vae.decode(_noisy(latents, 1 / vae.config.scaling_factor)).sample
        return _errors(decoded, pixels, weights)

    return fit(vae, course, loss_of)


def _weighed(rng: np.random.Generator, plan: Plan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, weights = weighed_pictures(rng, plan.rows)
    return signed(pixels, device), torch.from_numpy(weights).to(device).unsqueeze(1)


def _noisy(latents: torch.Tensor, deviation: torch.Tensor | float) -> torch.Tensor:
    """With noise of another strength in each picture, up to 0.3 of the deviation of latents."""
    amount = _MOST_NOISE * deviation * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + amount * torch.randn_like(latents)


def _errors(decoded: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of pixels and, for sharp edges, of differences of neighbours."""
    error = decoded.float() - pixels
    return {
        "absolute": (weights * error.abs()).mean(),
        "squared": 2 * (weights * error.square()).mean(),
        "edges": (weights[..., 1:, :] * error.diff(dim=2).abs()).mean()
        + (weights[..., 1:] * error.diff(dim=3).abs()).mean(),
    }


@torch.no_grad()
def fold_scale(vae: Any, pixels: torch.Tensor, scaling_factor: float) -> None:
    """Scales the latents, in the two 1x1 convolutions around them, so that `scaling_factor` makes them unit.

    Stable Diffusion's own factors (0.18215, the upscaler's 0.08333) then hold; diffusers insists on the latter.
    """
    gain = 1 / (scaling_factor * float(vae.encode(pixels).latent_dist.sample().std()))
    channels = vae.config.latent_channels
    vae.quant_conv.weight[:channels] *= gain
    vae.quant_conv.bias[:channels] *= gain
    vae.quant_conv.bias[channels:] += 2 * math.log(gain)
    vae.post_quant_conv.weight /= gain
    vae.register_to_config(scaling_factor=scaling_factor)
