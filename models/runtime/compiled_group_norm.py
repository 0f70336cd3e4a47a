"""Group norms for torch.compile that keep the channels-last memory format."""

from collections.abc import Callable
from functools import partial

import torch

Norm = Callable[[torch.Tensor], torch.Tensor]


def order_norms(network: torch.nn.Module) -> None:
    """Make the compiled group norms of a channels-last network read and write memory in that format.

    torch.compile's default form copies images to channels-first order and makes their next reader copy them back, at
    an eighth of the memory speed of an H200.
    """
    for module in network.modules():
        if type(module) is torch.nn.GroupNorm:
            module.forward = partial(_normalise, module, module.forward)  # type: ignore[method-assign]


def _normalise(norm: torch.nn.GroupNorm, eagerly: Norm, values: torch.Tensor) -> torch.Tensor:
    """Group norm of (N, C, h, w), computed in float32; equal to `eagerly` except for rounding.

    Computes mean and variance per channel first, since the few channels of a group are only a few contiguous bytes. All
    channels have the same number of values, so the group's mean is the mean of their means, and its variance the mean
    of their variances plus the variance of their means (Chan et al. 1979).
    """
    if values.dim() != 4 or not torch.compiler.is_compiling():
        return eagerly(values)
    rows, channels, height, width = values.shape
    shares = (1, 1, norm.num_groups, channels // norm.num_groups)
    pixels = values.permute(0, 2, 3, 1).float().reshape(rows, height * width, *shares[2:])
    variances, means = torch.var_mean(pixels, dim=1, correction=0, keepdim=True)
    between, mean = torch.var_mean(means, dim=3, correction=0, keepdim=True)
    variance = variances.mean(dim=3, keepdim=True) + between
    scale = _once((variance + norm.eps).rsqrt() * norm.weight.float().view(shares))
    shift = _once(norm.bias.float().view(shares) - mean * scale)
    normed = (pixels * scale + shift).reshape(rows, height, width, channels)
    return normed.to(values.dtype).permute(0, 3, 1, 2)


def _once(values: torch.Tensor) -> torch.Tensor:
    """Return the values as a view that makes the compiler compute them once, not again for every pixel."""
    return values.as_strided(values.shape, values.stride())
