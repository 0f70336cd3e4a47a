"""The forward pass of Stable Diffusion's UNet in two parts: before and after the first text attention.

With guidance, both rows of an image have the same latents and timestep, and all layers before the first cross-attention
compute the same values for them. So `begin` computes these once per image, and `finish` continues for each row.

With DeepCache (Ma et al. 2023), the calls between whole ones ("shallow" calls) compute the outermost layers alone. The
output of the deeper layers changes slowly from step to step; so it is cached, as the hidden states (N, C, h, w) after
the first layer of the last up block.
"""

from collections.abc import Sequence
from typing import Any

import torch

Hidden = torch.Tensor
Layer = tuple[Any, Any]
"""A residual layer or a downsampler, and the attention that follows it or None."""

_KNOWN = {
    "down_block_types": {"DownBlock2D", "CrossAttnDownBlock2D"},
    "mid_block_type": {"UNetMidBlock2D", "UNetMidBlock2DCrossAttn"},
    "up_block_types": {"UpBlock2D", "CrossAttnUpBlock2D"},
}
_UNKNOWN = (
    "addition_embed_type",
    "center_input_sample",
    "class_embeddings_concat",
    "dual_cross_attention",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
)


def unknown_part(config: Any) -> str | None:
    """Return an unsupported setting of a UNet's configuration, one that Stable Diffusion 1 and 2 don't use, or None."""
    for name, known in _KNOWN.items():
        types = config[name]
        if unknown := {types} - known if isinstance(types, str | None) else {*types} - known:
            return f"{name} with {min(map(str, unknown))}"
    return next((f"{name} {config[name]}" for name in _UNKNOWN if config.get(name)), None)


def begin(
    unet: Any,
    sample: Hidden,
    timesteps: torch.Tensor,
    labels: torch.Tensor | None,
    depth: int | None = None,
) -> list[Hidden]:
    """Compute what doesn't depend on the text, from (N, C, h, w) latents, (N,) timesteps and class labels.

    Returns the embedding of timesteps and labels, the hidden states after `conv_in` and after each layer and, for the
    first layer with cross-attention, the hidden states before its attention and the tokens after its self-attention.
    With `depth`, stops after that many layers.
    """
    temb = _time_embedding(unet, sample, timesteps, labels)
    skips = [unet.conv_in(sample)]
    for module, attention in _down_layers(unet)[:depth]:
        hidden = _convolved(module, skips[-1], temb)
        if attention is not None:
            return [temb, *skips, hidden, _to_first_cross_attention(attention, hidden)]
        skips.append(hidden)
    return [temb, *skips]


def finish(
    unet: Any, begun: Sequence[Hidden], slots: torch.Tensor, text: torch.Tensor
) -> tuple[torch.Tensor]:
    """Return the prediction for N rows; row n continues from slot `slots[n]` of `begun` and reads `text[n]`."""
    return finish_and_keep(unet, begun, slots, text)[:1]


def finish_and_keep(
    unet: Any, begun: Sequence[Hidden], slots: torch.Tensor, text: torch.Tensor
) -> tuple[torch.Tensor, Hidden]:
    """Return the prediction and the hidden states to cache for shallow calls."""
    temb, skips = _down(unet, begun, slots, text, None)
    hidden = unet.mid_block(skips[-1], temb, **_text(unet.mid_block, text))
    for block in unet.up_blocks[:-1]:
        own = tuple(skips[-len(block.resnets) :])
        del skips[-len(block.resnets) :]
        hidden = block(
            hidden_states=hidden,
            temb=temb,
            res_hidden_states_tuple=own,
            upsample_size=skips[-1].shape[2:],
            **_text(block, text),
        )
    first, *others = _layers(unet.up_blocks[-1])
    kept = _layer(first, torch.cat([hidden, skips.pop()], dim=1), temb, text)
    return _up(unet, others, kept, skips, temb, text), kept


def finish_shallow(
    unet: Any, begun: Sequence[Hidden], slots: torch.Tensor, text: torch.Tensor, kept: Hidden
) -> tuple[torch.Tensor]:
    """Return the prediction computed from cached hidden states; `begun` is computed to the depth of `shallow_depth`."""
    temb, skips = _down(unet, begun, slots, text, shallow_depth(unet))
    return (_up(unet, _layers(unet.up_blocks[-1])[1:], kept, skips, temb, text),)


def shallow_depth(unet: Any) -> int:
    """Return the number of down layers that a shallow call computes."""
    return len(unet.up_blocks[-1].resnets) - 2


def kept_channels(unet: Any) -> int:
    """Return the number of channels of the cached hidden states."""
    channels: int = unet.up_blocks[-1].resnets[0].out_channels
    return channels


def _down(
    unet: Any, begun: Sequence[Hidden], slots: torch.Tensor, text: torch.Tensor, depth: int | None
) -> tuple[torch.Tensor, list[Hidden]]:
    """Return the embedding of timesteps, and the hidden states after `conv_in` and each down layer."""
    layers = _down_layers(unet)[:depth]
    temb, *skips = (values[slots] for values in begun)
    if (at := _first_with_text(layers)) is None:
        return temb, skips
    *skips, hidden, tokens = skips
    skips.append(_from_first_cross_attention(layers[at][1], hidden, tokens, text))
    for layer in layers[at + 1 :]:
        skips.append(_layer(layer, skips[-1], temb, text))
    return temb, skips


def _up(
    unet: Any,
    layers: Sequence[Layer],
    hidden: Hidden,
    skips: list[Hidden],
    temb: torch.Tensor,
    text: torch.Tensor,
) -> torch.Tensor:
    """Run the last layers of the last up block with their skip connections, and the output layers."""
    for layer in layers:
        hidden = _layer(layer, torch.cat([hidden, skips.pop()], dim=1), temb, text)
    prediction: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return prediction


def _time_embedding(
    unet: Any, sample: Hidden, timesteps: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    """Return the embedding of timesteps plus, where the UNet takes them, that of class labels."""
    temb: torch.Tensor = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
    of_labels = unet.get_class_embed(sample=sample, class_labels=labels)
    return temb if of_labels is None else temb + of_labels


def _down_layers(unet: Any) -> list[Layer]:
    return [
        layer
        for block in unet.down_blocks
        for layer in [*_layers(block), *((each, None) for each in block.downsamplers or ())]
    ]


def _layers(block: Any) -> list[Layer]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _first_with_text(layers: Sequence[Layer]) -> int | None:
    return next((number for number, (_, attention) in enumerate(layers) if attention is not None), None)


def _layer(layer: Layer, hidden: Hidden, temb: torch.Tensor, text: torch.Tensor) -> Hidden:
    module, attention = layer
    hidden = _convolved(module, hidden, temb)
    if attention is not None:
        hidden = attention(hidden, encoder_hidden_states=text, return_dict=False)[0]
    return hidden


def _convolved(module: Any, hidden: Hidden, temb: torch.Tensor) -> Hidden:
    takes_temb = hasattr(module, "time_emb_proj")
    convolved: Hidden = module(hidden, temb) if takes_temb else module(hidden)
    return convolved


def _to_first_cross_attention(attention: Any, hidden: Hidden) -> torch.Tensor:
    """Return the tokens (N, h w, C) of a Transformer2DModel before its first cross-attention."""
    flat = hidden.shape[0], hidden.shape[2] * hidden.shape[3], -1
    tokens = attention.norm(hidden)
    if attention.use_linear_projection:
        tokens = attention.proj_in(tokens.permute(0, 2, 3, 1).reshape(flat))
    else:
        tokens = attention.proj_in(tokens).permute(0, 2, 3, 1).reshape(flat)
    block = attention.transformer_blocks[0]
    if not block.only_cross_attention:
        tokens = block.attn1(block.norm1(tokens)) + tokens
    tokens_out: torch.Tensor = tokens
    return tokens_out


def _from_first_cross_attention(
    attention: Any, hidden: Hidden, tokens: torch.Tensor, text: torch.Tensor
) -> Hidden:
    """Return the output (N, C, h, w) of a Transformer2DModel, given the tokens before its first cross-attention."""
    block, *others = attention.transformer_blocks
    if block.only_cross_attention:
        tokens = block.attn1(block.norm1(tokens), encoder_hidden_states=text) + tokens
    tokens = block.attn2(block.norm2(tokens), encoder_hidden_states=text) + tokens
    tokens = block.ff(block.norm3(tokens)) + tokens
    for block in others:
        tokens = block(tokens, encoder_hidden_states=text)
    rows, _, height, width = hidden.shape
    if attention.use_linear_projection:
        tokens = attention.proj_out(tokens)
    image = tokens.reshape(rows, height, width, -1).permute(0, 3, 1, 2).contiguous()
    output: Hidden = (image if attention.use_linear_projection else attention.proj_out(image)) + hidden
    return output


def _text(block: Any, text: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
