"""From latents to pixels: the VAE's decoder in fixed slices, and a look at what came out."""

from typing import Any

import torch

from models.chunks import in_slices
from models.picture import Defect, Picture


def decode(vae: Any, latents: torch.Tensor) -> list[Picture]:
    """Decodes latents (N, 4, H, W) float32 into N pictures, whose defects are found on the device.

    Large pictures are decoded in slices of equal shape, so that none depends on its place in the batch.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    area = latents.shape[2] * latents.shape[3] * factor**2
    slices = in_slices(latents / vae.config.scaling_factor, area)
    decoded = [_pixels(vae, part) for part in slices]
    pixels = torch.cat([part for part, _ in decoded])
    finite = torch.cat([good for _, good in decoded]) & _all_finite(latents)
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
