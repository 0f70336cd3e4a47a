"""Counts the FLOP of a UNet."""

from dataclasses import dataclass
from typing import Any

TOKENS = 77


@dataclass(frozen=True)
class Work:
    """FLOP per UNet row, a multiply-add counting as two; `shared` is the part that both rows of an image share."""

    row: int
    shared: int

    def step(self, guidance_scale: float) -> int:
        """Return the FLOP of one step of an image, as nightmill computes it; without guidance it is one row."""
        return 2 * self.row - self.shared if guidance_scale > 1 else self.row


def count_work(unet: Any, side: int) -> Work:
    """Count the work of diffusers' `unet` on latents of that side; without computing if it is on the device "meta"."""
    import torch  # noqa: PLC0415 - takes a second, which other benchmarks needn't spend
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    from models.engine import unet_forward_with_reuse  # noqa: PLC0415

    config = unet.config
    with torch.device(unet.device), torch.inference_mode():
        given = (
            torch.zeros(1, config.in_channels, side, side),
            torch.zeros(1),
            torch.zeros(1, dtype=torch.long) if config.num_class_embeds else None,
        )
        text, slots = torch.zeros(1, TOKENS, config.cross_attention_dim), torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as shared:
            begun = unet_forward_with_reuse.begin(unet, *given)
        with FlopCounterMode(display=False) as rest:
            unet_forward_with_reuse.finish(unet, begun, slots, text)
    return Work(shared.get_total_flops() + rest.get_total_flops(), shared.get_total_flops())
