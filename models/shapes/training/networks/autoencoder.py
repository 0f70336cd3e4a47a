"""Train the autoencoders: f8 for pictures of 64 pixels, f4 for the upscaler's crops of large ones."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.shapes.training.loop import Course, Plan, fit, half

Batch = Callable[[np.random.Generator, int], np.ndarray[Any, np.dtype[np.uint8]]]
LITTLE_NOISE = -5.0


@dataclass(frozen=True)
class Weights:
    """Weights of the squared error and of the latents' KL divergence, relative to the absolute error."""

    squared: float = 2.0
    divergence: float = 1e-3


def signed(pixels: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> torch.Tensor:
    """Convert (N, H, W, 3) uint8 pixels to (N, 3, H, W) float32 in -1..1."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)


def new_autoencoder(channels: tuple[int, ...], sample_size: int, seed: int) -> Any:
    """Return an untrained AutoencoderKL with `channels` per level, finest first."""
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
    """Return an autoencoder without the coarsest level that keeps this one's other layers, for further training.

    It starts with layers that already encode colours and edges, which took most of the training time.
    """
    shorter = new_autoencoder(vae.config.block_out_channels[:-1], sample_size, seed)
    known = vae.state_dict()
    weights = {name: known.get(_in_longer(name), fresh) for name, fresh in shorter.state_dict().items()}
    shorter.load_state_dict(weights)
    with torch.no_grad():
        shorter.quant_conv.bias[shorter.config.latent_channels :] = LITTLE_NOISE
    pixels = batch(np.random.default_rng(seed), 64)
    fold_scale(shorter, signed(pixels, torch.device("cpu")), 1.0)
    return shorter


def _in_longer(name: str) -> str:
    """Map a parameter's name to the longer network, whose decoder has the coarsest block first, before all others."""
    block = re.match(r"decoder\.up_blocks\.(\d+)\.", name)
    return f"decoder.up_blocks.{int(block[1]) + 1}.{name[block.end() :]}" if block else name


def train_autoencoder(
    vae: Any,
    scaling_factor: float,
    weights: Weights,
    batch: Batch,
    course: Course,
) -> Any:
    """Train an AutoencoderKL, and scale its latents so that `scaling_factor` brings them to standard deviation 1."""
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
    fold_scale(trained, signed(batch(rng, enough(plan)), device), scaling_factor)
    return trained


def enough(plan: Plan) -> int:
    """Return the number of pictures used to estimate the latents' deviation; no more than the plan uses."""
    return min(256, plan.steps * plan.rows)


@torch.no_grad()
def fold_scale(vae: Any, pixels: torch.Tensor, scaling_factor: float) -> None:
    """Scale the latents, in the two 1x1 convolutions around them, so that `scaling_factor` gives them unit deviation.

    Stable Diffusion's own factors (0.18215, the upscaler's 0.08333) then apply; diffusers requires the latter.
    """
    gain = 1 / (scaling_factor * float(vae.encode(pixels).latent_dist.sample().std()))
    channels = vae.config.latent_channels
    vae.quant_conv.weight[:channels] *= gain
    vae.quant_conv.bias[:channels] *= gain
    vae.quant_conv.bias[channels:] += 2 * math.log(gain)
    vae.post_quant_conv.weight /= gain
    vae.register_to_config(scaling_factor=scaling_factor)
