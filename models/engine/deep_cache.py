"""DeepCache (Ma et al. 2023): between whole UNet calls, only the outermost layers are computed.

What comes up from the depths of a UNet changes slowly from step to step. So it is kept, as the hidden states (N, C, h,
w) after the first layer of the last up block, and the calls in between compute the layers around it alone.
"""

from collections.abc import Sequence
from typing import Any

import torch

Hidden = torch.Tensor


def whole(
    unet: Any, sample: Hidden, timesteps: torch.Tensor, text: torch.Tensor, labels: torch.Tensor | None
) -> tuple[torch.Tensor, Hidden]:
    """The prediction as diffusers' `unet` makes it, and what is kept for the calls in between."""
    moment = _moment(unet, sample, timesteps, labels)
    hidden = unet.conv_in(sample)
    skips = [hidden]
    for block in unet.down_blocks:
        hidden, beside = block(hidden_states=hidden, temb=moment, **_text(block, text))
        skips += beside
    hidden = unet.mid_block(hidden, moment, **_text(unet.mid_block, text))
    for block in unet.up_blocks[:-1]:
        own = tuple(skips[-len(block.resnets) :])
        del skips[-len(block.resnets) :]
        hidden = block(
            hidden_states=hidden,
            temb=moment,
            res_hidden_states_tuple=own,
            upsample_size=skips[-1].shape[2:],
            **_text(block, text),
        )
    last = _layers(unet.up_blocks[-1])
    kept = _layer(last[0], torch.cat([hidden, skips.pop()], dim=1), moment, text)
    return _finish(unet, last[1:], kept, skips, moment, text), kept


def shallow(
    unet: Any,
    sample: Hidden,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    labels: torch.Tensor | None,
    kept: Hidden,
) -> torch.Tensor:
    """The prediction by what was kept."""
    moment = _moment(unet, sample, timesteps, labels)
    last = _layers(unet.up_blocks[-1])[1:]
    skips = [unet.conv_in(sample)]
    for layer in _layers(unet.down_blocks[0])[: len(last) - 1]:
        skips.append(_layer(layer, skips[-1], moment, text))
    return _finish(unet, last, kept, skips, moment, text)


def _finish(
    unet: Any,
    layers: Sequence[tuple[Any, Any]],
    hidden: Hidden,
    skips: list[Hidden],
    moment: torch.Tensor,
    text: torch.Tensor,
) -> torch.Tensor:
    """The last layers of the last up block, each beside what went by the depths, and what follows them."""
    for layer in layers:
        hidden = _layer(layer, torch.cat([hidden, skips.pop()], dim=1), moment, text)
    prediction: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return prediction


def _moment(unet: Any, sample: Hidden, timesteps: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """The embedding of timesteps, and of class labels where the UNet takes them."""
    moment: torch.Tensor = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
    of_labels = unet.get_class_embed(sample=sample, class_labels=labels)
    return moment if of_labels is None else moment + of_labels


def _layers(block: Any) -> list[tuple[Any, Any]]:
    """A block's residual layers with the attention that follows each, None where there is none."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _layer(layer: tuple[Any, Any], hidden: Hidden, moment: torch.Tensor, text: torch.Tensor) -> Hidden:
    resnet, attention = layer
    hidden = resnet(hidden, moment)
    if attention is not None:
        hidden = attention(hidden, encoder_hidden_states=text, return_dict=False)[0]
    return hidden


def _text(block: Any, text: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}


def width(unet: Any) -> int:
    """Channels of what is kept."""
    channels: int = unet.up_blocks[-1].resnets[0].out_channels
    return channels
