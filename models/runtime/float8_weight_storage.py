"""Weights stored as float8 and widened when a layer computes."""

from typing import Any

import torch

FORMAT = torch.float8_e4m3fn

_LARGEST = torch.finfo(FORMAT).max


def hold(network: torch.nn.Module) -> None:
    """Store the weights of all linear layers and convolutions of `network` as float8, one byte each.

    The format is E4M3 (Micikevicius et al. 2022). Each output channel is scaled by a power of two so that its largest
    weight is near the format's maximum: small weights would otherwise fall among the format's few subnormal numbers.
    Layers compute in their original number format; a widened weight exists only while its layer computes. Biases, norms
    and embeddings are unchanged.
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
    """Return the divisors of the output channels, (channels, 1, …): powers of two that float16 can represent."""
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
