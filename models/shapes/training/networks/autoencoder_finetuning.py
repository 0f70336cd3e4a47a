"""Further training of the f8 autoencoder: informative latents, and a decoder that tolerates inexact latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.shapes.drawing import draw
from models.shapes.grammar import caption
from models.shapes.training.data import weights_of
from models.shapes.training.loop import Course, fit, half
from models.shapes.training.networks.autoencoder import LITTLE_NOISE, enough, fold_scale, signed
from models.shapes.world import Place, Relation, Scene, random_scene

Redraw = Callable[[torch.Tensor, list[str]], torch.Tensor]
_MOST_NOISE = 0.3


def even_out(vae: Any, course: Course) -> Any:
    """Continue training the f8 autoencoder until its latent channels are uncorrelated, of equal deviation, and robust.

    The KL divergence alone leaves redundant channels, mostly of brightness: colours then lie within a few tenths of a
    deviation, which the squared errors of a UNet barely reflect. Covariances are penalised as by Bardes et al. (2022,
    VICReg); noise on the latents makes them robust by keeping different pictures apart.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    vae = vae.train().requires_grad_(True).to(device, memory_format=torch.channels_last)
    channels, scaling_factor = vae.config.latent_channels, vae.config.scaling_factor
    unit = torch.eye(channels, device=device)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        drawn = _weighed(rng, plan.rows, device)
        with half(device):
            means = vae.encode(drawn.pixels).latent_dist.mean
            decoded = vae.decode(_noisy(means, means.std().detach())).sample
        cells = means.float().movedim(1, -1).flatten(0, 2)
        correlation = torch.cov(cells.t()) / cells.var().detach()
        return _errors(decoded, drawn) | {
            "uneven": 0.05 * (correlation - unit).square().sum(),
            "large": 1e-3 * cells.square().mean(),
        }

    trained = fit(vae, course, loss_of)
    with torch.no_grad():
        trained.quant_conv.weight[channels:] = 0
        trained.quant_conv.bias[channels:] = LITTLE_NOISE
    fold_scale(trained, _weighed(rng, enough(plan), device).pixels, scaling_factor)
    return trained


def train_decoder(vae: Any, course: Course, redraw: Redraw | None = None) -> Any:
    """Continue training the f8 decoder, on exact latents and on ones that are slightly off, as a UNet's are.

    Noise is added in every row; `redraw(latents, captions)`, if given, regenerates every second row before. The encoder
    is frozen, and so is the meaning of latents: a UNet may be trained at the same time.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    vae = vae.to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    scale = vae.config.scaling_factor

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        drawn = _weighed(rng, plan.rows, device)
        with half(device):
            with torch.no_grad():
                latents = vae.encode(drawn.pixels).latent_dist.sample()
            if redraw is not None:
                captions = [caption(*said, rng, 1.0) for said in drawn.said[1::2]]
                latents[1::2] = redraw(latents[1::2].float() * scale, captions) / scale
            decoded = vae.decode(_noisy(latents, 1 / scale)).sample
        return _errors(decoded, drawn)

    return fit(vae, course, loss_of)


@dataclass(frozen=True)
class _Weighed:
    """Pictures (N, 3, 64, 64) in -1..1, loss weights of their pixels (N, 1, 64, 64), and what captions describe."""

    pixels: torch.Tensor
    weights: torch.Tensor
    said: list[tuple[Scene, Place | None, Relation | None]]


def _weighed(rng: np.random.Generator, rows: int, device: torch.device) -> _Weighed:
    said = [random_scene(rng) for _ in range(rows)]
    scenes = [scene for scene, _, _ in said]
    weights = torch.from_numpy(weights_of(scenes)).to(device).unsqueeze(1)
    return _Weighed(signed(np.stack([draw(scene) for scene in scenes]), device), weights, said)


def _noisy(latents: torch.Tensor, deviation: torch.Tensor | float) -> torch.Tensor:
    """Add noise of a random strength per picture, up to 0.3 of the latents' deviation."""
    amount = _MOST_NOISE * deviation * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + amount * torch.randn_like(latents)


def _errors(decoded: torch.Tensor, drawn: _Weighed) -> dict[str, torch.Tensor]:
    """Return the errors of pixels and, for sharp edges, of the differences of neighbouring pixels."""
    error, weights = decoded.float() - drawn.pixels, drawn.weights
    return {
        "absolute": (weights * error.abs()).mean(),
        "squared": 2 * (weights * error.square()).mean(),
        "edges": (weights[..., 1:, :] * error.diff(dim=2).abs()).mean()
        + (weights[..., 1:] * error.diff(dim=3).abs()).mean(),
    }
