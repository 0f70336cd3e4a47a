"""Query, key and value of a self-attention by one product, which reads the hidden states once instead of thrice."""

from typing import Any

import torch
from torch.nn import functional


def join_projections(unet: Any) -> None:
    """Has the self-attentions of diffusers' `unet` compute so; sums are the same, in an order that a device may choose.

    Weights take no more memory than before. Attentions of other kinds, and those whose weights are held in fewer bits,
    stay as they are.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0  # noqa: PLC0415 - chatters on import

    for attention in unet.modules():
        if (
            isinstance(attention, Attention)
            and type(attention.processor) is AttnProcessor2_0
            and _is_plain(attention)
        ):
            _join(attention)
            attention.set_processor(JoinedSelfAttention())


class JoinedSelfAttention:
    """Self-attention over (N, tokens, width) as diffusers' AttnProcessor2_0 has it."""

    def __call__(
        self,
        attention: Any,
        hidden: torch.Tensor,
        encoder_hidden_states: None = None,  # noqa: ARG002 - diffusers looks for these names
        attention_mask: None = None,  # noqa: ARG002
        temb: None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """The attended tokens, of the same shape."""
        joined = functional.linear(hidden, attention.joined)
        query, key, value = (
            part.view(*hidden.shape[:2], attention.heads, -1).transpose(1, 2)
            for part in joined.chunk(3, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        attended: torch.Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2))
        return attended


def _is_plain(attention: Any) -> bool:
    """Whether it is a self-attention without norms, biases, or an input that is added again."""
    projections = (attention.to_q, attention.to_k, attention.to_v)
    return (
        not attention.is_cross_attention
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and not any((attention.group_norm, attention.spatial_norm, attention.norm_q, attention.norm_k))
        and all(type(layer) is torch.nn.Linear and layer.bias is None for layer in projections)
        and len({layer.weight.shape for layer in projections}) == 1
    )


@torch.no_grad()
def _join(attention: Any) -> None:
    """Put the three weights into one, of which they become parts."""
    layers = (attention.to_q, attention.to_k, attention.to_v)
    joined = torch.cat([layer.weight for layer in layers])
    attention.register_buffer("joined", joined, persistent=False)
    for layer, part in zip(layers, joined.chunk(3), strict=True):
        layer.weight = torch.nn.Parameter(part, requires_grad=False)
