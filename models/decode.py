"""From latents to pixels: the VAE's decoder on batches of one shape, and a look at what came out."""

from collections.abc import Sequence
from typing import Any

import torch

from models.picture import Defect, Picture

PIXELS_AT_ONCE = 2**20


def decode(vae: Any, latents: Sequence[torch.Tensor], *, at_once: int) -> list[Picture]:
    """Decodes latents (C, h, w) float32 of one size into pictures, whose defects are found on the device.

    They are taken by `at_once`, fewer where that many have more than a million pixels together. The last batch is
    filled up, so that no picture depends on how many there are.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    area = latents[0].shape[1] * latents[0].shape[2] * factor**2
    at_once = max(1, min(at_once, PIXELS_AT_ONCE // area))
    pictures: list[Picture] = []
    for start in range(0, len(latents), at_once):
        part = list(latents[start : start + at_once])
        pictures += _decoded(vae, torch.stack(part + part[-1:] * (at_once - len(part))))[: len(part)]
    return pictures


def _decoded(vae: Any, latents: torch.Tensor) -> list[Picture]:
    pixels, finite = _pixels(vae, latents / vae.config.scaling_factor)
    finite &= _all_finite(latents)
    black = pixels.flatten(1).amax(dim=1) <= 2
    return [
        Picture(array, _defect(good, dark))
        for array, good, dark in zip(pixels.cpu().numpy(), finite.tolist(), black.tolist(), strict=True)
    ]


def _pixels(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 pixels (N, H, W, 3) of scaled latents, and (N,) whether all decoded values were finite."""
    image = vae.decode(latents.to(vae.dtype), return_dict=False)[0].float()
    unit = (image.nan_to_num(0.0) / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), _all_finite(image)


def _all_finite(values: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(values).flatten(1).all(dim=1)


def _defect(finite: bool, black: bool) -> Defect | None:
    if not finite:
        return "nan"
    return "black" if black else None
