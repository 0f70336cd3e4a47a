"""The engine's request: one image to denoise in the UNet batch."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch

from models.engine.sampler_matrices import SamplerMatrices

Conditions = tuple[torch.Tensor, ...]
"""What the UNet reads of a row's text, constant over its steps: Stable Diffusion's embedding (tokens, width)."""


@dataclass(frozen=True, eq=False)
class EngineRequest:
    """Input of the UNet batch for one image; tensors are on the UNet's device.

    `latents` (C, h, w) float32 have the noise level of the first step. `text` are the text conditions of the
    prompt, `unguided` those of the negative prompt, or None to render without guidance, which takes one row instead of
    two. `beside` (D, h, w) is concatenated to the latents along the channels: a small image, a mask and the masked
    image's latents, or a depth map. `label` is the upscaler's class label. Samplers that need noise draw it from
    `generator`. `key` is chosen by the caller and identifies the result.
    """

    key: Hashable
    matrices: SamplerMatrices
    latents: torch.Tensor
    text: Conditions
    unguided: Conditions | None
    guidance: float
    generator: torch.Generator
    beside: torch.Tensor | None = None
    label: int = 0

    @property
    def rows(self) -> int:
        """Number of rows of the UNet batch that the image takes."""
        return 1 if self.unguided is None else 2
