"""Self-attention in the mid blocks of the VAE's encoder and decoder, with bounded memory."""

from typing import Any

import torch
from torch.nn import functional

_SCORES_AT_ONCE = 2**28


def chunk_attention(vae: Any) -> None:
    """Make the mid-block attentions process their queries in chunks: the same values, bounded memory.

    Unchunked, an image of 2048x2048 pixels from the x4 upscaler would need 256 GiB for its attention scores.
    """
    for part in (vae.encoder, vae.decoder):
        for attention in part.mid_block.attentions:
            if attention is not None:
                attention.set_processor(ChunkedAttention())


class ChunkedAttention:
    """Self-attention over an image (N, C, H, W) as in diffusers, with the queries in chunks."""

    def __init__(self, scores_at_once: int = _SCORES_AT_ONCE) -> None:
        self._scores_at_once = scores_at_once

    def __call__(
        self,
        attention: Any,
        hidden: torch.Tensor,
        encoder_hidden_states: None = None,  # noqa: ARG002 - diffusers inspects these names
        attention_mask: None = None,  # noqa: ARG002
        temb: None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return the attended image, of the same shape, with the residual added."""
        rows, _, height, width = hidden.shape
        tokens = attention.group_norm(hidden.flatten(2)).transpose(1, 2)
        query, key, value = (
            project(tokens).reshape(rows, height * width, attention.heads, -1).transpose(1, 2)
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        chunks = -(-rows * attention.heads * (height * width) ** 2 // self._scores_at_once)
        mixed = torch.empty_like(query)
        for part, into in zip(query.chunk(chunks, dim=2), mixed.chunk(chunks, dim=2), strict=True):
            into.copy_(functional.scaled_dot_product_attention(part, key, value))
        out = attention.to_out[0](mixed.transpose(1, 2).flatten(2)).transpose(1, 2)
        image: torch.Tensor = (out.reshape(hidden.shape) + hidden) / attention.rescale_output_factor
        return image
