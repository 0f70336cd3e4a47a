"""Training the autoencoders: f8 for pictures of 64 pixels, f4 for the upscaler's crops of large ones."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.shapes.training.loop import Plan, fit, half

Batch = Callable[[np.random.Generator, int], np.ndarray[Any, np.dtype[np.uint8]]]
_KL_WEIGHT = 1e-3
_OFF = 0.2


def signed(pixels: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> torch.Tensor:
    """(N, H, W, 3) uint8 pixels as (N, 3, H, W) float32 in -1..1."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)


def train_autoencoder(
    channels: tuple[int, ...],
    sample_size: int,
    scaling_factor: float,
    batch: Batch,
    plan: Plan,
    device: torch.device,
    seed: int,
    log: Path,
) -> Any:
    """An AutoencoderKL of `channels` by level, whose latents `scaling_factor` brings to deviation 1."""
    from diffusers import AutoencoderKL  # noqa: PLC0415

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=sample_size,
    ).to(device, memory_format=torch.channels_last)

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
            "squared": 2 * error.square().mean(),
            "divergence": _KL_WEIGHT * divergence.mean(),
        }

    trained = fit(vae, plan, loss_of, log)
    fold_scale(trained, signed(batch(rng, 256), device), scaling_factor)
    return trained


def train_decoder(vae: Any, batch: Batch, plan: Plan, device: torch.device, seed: int, log: Path) -> Any:
    """Trains the decoder on, for latents as they are and for such as a UNet gives, which are a little off.

    The encoder stays, and with it what latents mean: a UNet may be trained beside this. Differences of
    neighbouring pixels count too, for sharp edges.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = vae.to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        pixels = signed(batch(rng, plan.rows), device)
        with half(device):
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample()
                off = _OFF / vae.config.scaling_factor * torch.rand(len(latents), 1, 1, 1, device=device)
            decoded = vae.decode(latents + off * torch.randn_like(latents)).sample
        error = decoded.float() - pixels
        return {
            "absolute": error.abs().mean(),
            "squared": 2 * error.square().mean(),
            "edges": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
        }

    return fit(vae, plan, loss_of, log)


@torch.inference_mode()
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
