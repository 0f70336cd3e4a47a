"""From pixels to what a model reads: latents of a picture, of what a mask leaves of it, and depth maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models.chunks import draw, in_slices


def signed(pictures: Sequence[npt.NDArray[np.uint8]], device: str) -> torch.Tensor:
    """Pictures (H, W, 3) uint8 of one size as (N, 3, H, W) float32 in -1..1."""
    pixels = torch.from_numpy(np.stack(pictures)).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(vae: Any, images: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Latents (N, C, h, w) float32 of images (N, 3, H, W) in -1..1, sampled with one generator a row.

    Large images are encoded in slices of equal shape, so that none depends on its place in the batch.
    """
    found = [vae.encode(part.to(vae.dtype)).latent_dist for part in in_slices(images, images[0, 0].numel())]
    mean = torch.cat([one.mean for one in found]).float()
    deviation = torch.cat([one.std for one in found]).float()
    noise = draw(generators, tuple(mean.shape[1:])).to(mean.device)
    latents: torch.Tensor = (mean + deviation * noise) * vae.config.scaling_factor
    return latents


def encode_masked(
    vae: Any,
    images: torch.Tensor,
    masks: Sequence[npt.NDArray[np.uint8]],
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    """What an inpainting UNet reads beside the latents: (N, 1 + C, h, w), the mask and the masked picture.

    Masks are (H, W), at 128 and above to be repainted: 1 in the first channel, black to the encoder.
    """
    repainted = torch.from_numpy(np.stack(masks)).to(images.device)[:, None] >= 128
    kept = encode(vae, images * ~repainted, generators)
    small = functional.interpolate(repainted.float(), size=kept.shape[2:])
    return torch.cat([small, kept], dim=1)


def scaled_depth(depth: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Depth maps (N, H, W) of any scale as (N, 1, height, width) float32, each from -1, far, to 1, near.

    A map of one depth all over is -1 all over.
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
    """`drawn` where `mask` (H, W) is 255, exactly `image` where it is 0, and in proportion between."""
    share = mask[..., None].astype(np.uint32)
    mixed = (drawn * share + image * (255 - share) + 127) // 255
    return mixed.astype(np.uint8)
