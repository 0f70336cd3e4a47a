"""One image on its way through the UNet."""

from dataclasses import dataclass

import torch

from models.engine.sampler_matrices import SamplerMatrices


@dataclass(frozen=True, eq=False)
class EngineRequest:
    """What a UNet batch needs to know of an image; tensors are on the UNet's device.

    `latents` (C, h, w) float32 are as noisy as the recurrence begins, `text` (tokens, width) is the prompt,
    `unguided` the negative one, or None to be drawn without guidance, which takes one row instead of two. `beside`,
    (D, h, w), is put beside the latents: a small picture, a mask and what it leaves of a picture, or a depth map.
    `label` is the upscaler's class label. Samplers that draw noise take it from `generator`. `number` is the asker's.
    """

    number: int
    matrices: SamplerMatrices
    latents: torch.Tensor
    text: torch.Tensor
    unguided: torch.Tensor | None
    guidance: float
    generator: torch.Generator
    beside: torch.Tensor | None = None
    label: int = 0

    @property
    def rows(self) -> int:
        """Rows of the UNet's batch."""
        return 1 if self.unguided is None else 2
