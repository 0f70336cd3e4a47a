"""Weights kept as float8 and widened when a layer computes."""

from typing import Any

import torch

FORMAT = torch.float8_e4m3fn

_LARGEST = torch.finfo(FORMAT).max


def hold(network: torch.nn.Module) -> None:
    """Keeps the weights of all linear layers and convolutions of `network` in a byte each.

    The format is E4M3 (Micikevicius et al. 2022), each output channel scaled by a power of two so that its largest
    weight is near the format's largest number: small ones would fall among its few subnormal numbers. Layers compute
    in the number format that they had, in which a weight exists while its layer computes. Biases, norms and
    embeddings stay as they are.
    """
    layer: Any
    for layer in list(network.modules()):
        held_class = _HELD.get(type(layer))
        if held_class is None:
            continue
        weight = layer.weight.detach()
        scale = _scale(weight.float())
        del layer.weight
        layer.register_buffer("held", (weight.float() / scale).to(FORMAT))
        layer.register_buffer("scale", scale.to(weight.dtype))
        layer.__class__ = held_class


def _scale(weight: torch.Tensor) -> torch.Tensor:
    """What each output channel is divided by, of the shape (channels, 1, …): powers of two that float16 has, too."""
    largest = weight.abs().flatten(1).amax(dim=1)
    exponent = torch.frexp(largest / _LARGEST).exponent.clamp(min=-24)
    return torch.exp2(exponent.float()).view(-1, *[1] * (weight.dim() - 1))


class _Linear(torch.nn.Linear):
    held: torch.Tensor
    scale: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.held.to(self.scale.dtype) * self.scale


class _Conv2d(torch.nn.Conv2d):
    held: torch.Tensor
    scale: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.held.to(self.scale.dtype) * self.scale


_HELD: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Linear: _Linear,
    torch.nn.Conv2d: _Conv2d,
}
