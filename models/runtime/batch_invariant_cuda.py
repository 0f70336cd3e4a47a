"""Convolutions in which a picture's last bits tell where it stands in its batch, and another form for those.

Where the pixels of a batch don't divide evenly among a GPU's processors, cuDNN has the products of some of them added
up in parts (by its kernels that are named `segment_k_on`). Which pixels these are depends on their place.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

Compute = Callable[[torch.Tensor], torch.Tensor]

_AT_ONCE = 2**30
"""Bytes of what is multiplied at once."""


def matter(device: torch.device) -> bool:
    """Whether convolutions may show places there: on CPUs they don't, and Apple's GPUs haven't been tried."""
    return device.type == "cuda"


def level(network: torch.nn.Module, run: Callable[[], Any]) -> int:
    """Has those convolutions of `network` that show places be matrix products instead; how many are found.

    `run` calls the network, uncompiled, on a batch: convolutions are tried at the shapes that they have in it, each
    with one picture in all places. At other shapes they stay as they are.
    """
    return sum(_leveled(convolution, values) for convolution, values in _inputs(network, run))


@torch.inference_mode()
def shows_place(compute: Compute, like: torch.Tensor) -> bool:
    """Whether a picture comes out otherwise in one place of a batch (N, …), laid out as `like`, than in another."""
    row = torch.randn(like.shape[1:], device=like.device).to(like.dtype)
    out = compute(torch.empty_like(like).copy_(row))
    return not torch.equal(out[1:], out[:-1])


def _inputs(network: torch.nn.Module, run: Callable[[], Any]) -> list[tuple[Any, torch.Tensor]]:
    """The convolutions that `run` calls, with what goes in, without its values."""
    found: dict[tuple[int, torch.Size], tuple[Any, torch.Tensor]] = {}

    def note(convolution: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found[id(convolution), given[0].shape] = convolution, torch.empty_like(given[0], device="meta")

    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(note) for module in convolutions if _is_plain(module)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _is_plain(convolution: torch.nn.Conv2d) -> bool:
    """Whether it is one that `_product` can do."""
    return (
        convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def _leveled(convolution: Any, values: torch.Tensor) -> bool:
    """Whether the convolution shows places at the shape of `values`; it won't any more."""
    if not shows_place(convolution.forward, torch.empty_like(values, device=convolution.weight.device)):
        return False
    if not hasattr(convolution, "as_product"):
        convolution.as_product = frozenset[tuple[int, ...]]()
        convolution.forward = partial(_convolve, convolution, convolution.forward)
    convolution.as_product |= {tuple(values.shape)}
    return True


def _convolve(convolution: Any, directly: Compute, values: torch.Tensor) -> torch.Tensor:
    is_product = tuple(values.shape) in convolution.as_product
    return _product(convolution, values) if is_product else directly(values)


def _product(convolution: torch.nn.Conv2d, values: torch.Tensor) -> torch.Tensor:
    """The convolution of (N, C, h, w), each pixel's surroundings times the weights: the same sums, in one order.

    It holds the surroundings, for 3 x 3 weights nine times the values, at most a gigabyte of them at once.
    """
    height, width = convolution.weight.shape[2:]
    size = values.numel() * values.element_size() * height * width
    parts = 1
    while size > parts * _AT_ONCE and parts < len(values) and len(values) % (2 * parts) == 0:
        parts *= 2
    return torch.cat([_part(convolution, part) for part in values.chunk(parts)])


def _part(convolution: torch.nn.Conv2d, values: torch.Tensor) -> torch.Tensor:
    weight = convolution.weight
    height, width = weight.shape[2:]
    assert not isinstance(convolution.padding, str)
    down, right = convolution.padding
    padded = functional.pad(values, (right, right, down, down))
    around = padded.unfold(2, height, convolution.stride[0]).unfold(3, width, convolution.stride[1])
    rows = around.permute(0, 2, 3, 4, 5, 1).flatten(3)  # (N, h, w, weights of a sum)
    mixed = functional.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)
    return mixed.permute(0, 3, 1, 2)
