"""Regenerate latents of known pictures with the finished model, as training inputs of its decoder."""

from typing import Any

import torch

from models.shapes.training.networks.denoiser import Denoiser
from models.shapes.training.networks.finetuning_under_guidance import Text, guided
from models.shapes.training.networks.text_encoder import token_ids
from models.shapes.training.noising import Noising

_STRIDES = 6
_LEAST_STEP, _MOST_STEP = 200, 600
_LEAST_GUIDANCE, _MOST_GUIDANCE = 4.0, 7.5


class Redrawing:
    """A text-to-image model that denoises noised pictures.

    Noise of steps 200 to 600 keeps positions and blurs colours.
    """

    def __init__(self, model: Denoiser, tokenizer: Any, device: torch.device) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.noising = Noising(device)

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Regenerate latents (N, 4, H, W), scaled, with six DDIM steps and a guidance of 4 to 7.5."""
        encode, unet = self.model.text_encoder, self.model.unet
        text = Text.of(encode(token_ids(self.tokenizer, captions, self.device))[0], captions)
        empty = encode(token_ids(self.tokenizer, [""], self.device))[0]
        first = torch.randint(_LEAST_STEP, _MOST_STEP, (len(latents),), device=self.device)
        strength = float(torch.empty(()).uniform_(_LEAST_GUIDANCE, _MOST_GUIDANCE))
        steps, drawn = first, self.noising.noisy(latents, first)
        for left in reversed(range(_STRIDES)):
            velocity = guided(unet, drawn, steps, text, empty, strength)
            to = first * left // _STRIDES
            steps, drawn = to, self.noising.stride(drawn, velocity, steps, to)
        return drawn
