"""Encode images, masked images and depth maps as the UNet's inputs; paste results into masked images."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models.runtime.padding_and_noise import draw, moved


def signed(image: npt.NDArray[np.uint8], device: str) -> torch.Tensor:
    """Convert an image (H, W, 3) uint8 to (1, 3, H, W) float32 in -1..1."""
    pixels = moved(torch.from_numpy(image)[None], device)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(vae: Any, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Sample latents (1, C, h, w) float32 with the generator, of an image (1, 3, H, W) in -1..1.

    One image at a time, so that its latents depend on it alone.
    """
    found = vae.encode(image.to(vae.dtype)).latent_dist
    noise = moved(draw(generator, found.mean.shape), image.device)
    latents: torch.Tensor = (found.mean.float() + found.std.float() * noise) * vae.config.scaling_factor
    return latents


def encode_masked(
    vae: Any, image: torch.Tensor, mask: npt.NDArray[np.uint8], generator: torch.Generator
) -> torch.Tensor:
    """Return the extra channels of an inpainting UNet: (1, 1 + C, h, w), the mask and the masked image's latents.

    The mask is (H, W). Pixels of 128 and above are repainted: 1 in the first channel, black in the encoder's input.
    """
    repainted = moved(torch.from_numpy(mask)[None, None], image.device) >= 128
    kept = encode(vae, image * ~repainted, generator)
    small = functional.interpolate(repainted.float(), size=kept.shape[2:])
    return torch.cat([small, kept], dim=1)


def scaled_depth(depth: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scale depth maps (N, H, W) of any range to (N, 1, height, width) float32, each from -1 (far) to 1 (near).

    A map of constant depth becomes -1 everywhere.
    """
    small = functional.interpolate(
        depth.float()[:, None], size=(height, width), mode="bicubic", align_corners=False
    )
    lowest, highest = small.amin(dim=(1, 2, 3), keepdim=True), small.amax(dim=(1, 2, 3), keepdim=True)
    spread = (highest - lowest).clamp_min(torch.finfo(torch.float32).tiny)
    scaled: torch.Tensor = 2 * (small - lowest) / spread - 1
    return scaled


def paste(
    drawn: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Return `drawn` where `mask` (H, W) is 255, exactly `image` where it is 0, and a proportional mix between."""
    share = mask[..., None].astype(np.uint32)
    mixed = (drawn * share + image * (255 - share) + 127) // 255
    return mixed.astype(np.uint8)
