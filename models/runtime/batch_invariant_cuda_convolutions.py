"""Find CUDA convolutions whose result depends on the position in the batch, and compute them as matrix products.

Where the pixels of a batch don't divide evenly among a GPU's processors, cuDNN sums some of the products in parts (in
kernels named `segment_k_on`). Which pixels these are depends on their position.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

Compute = Callable[[torch.Tensor], torch.Tensor]

_AT_ONCE = 2**30
"""Maximum size in bytes of the matrix that is multiplied at a time."""


def is_needed(device: torch.device) -> bool:
    """Whether convolutions may depend on the position there: on CPUs they don't; Apple's GPUs are untested."""
    return device.type == "cuda"


def replace_batch_dependent_convolutions(network: torch.nn.Module, run: Callable[[], Any]) -> int:
    """Replace convolutions of `network` that depend on the batch position by matrix products; return their number.

    `run` calls the network, uncompiled, on a batch: convolutions are tested at the shapes that they have in it, each
    with one image repeated in all positions. At other shapes they are unchanged.
    """
    return sum(_replaced(convolution, values) for convolution, values in _inputs(network, run))


@torch.inference_mode()
def depends_on_position(compute: Compute, like: torch.Tensor) -> bool:
    """Whether an image's result differs between positions of a batch (N, …) with the memory layout of `like`."""
    row = torch.randn(like.shape[1:], device=like.device).to(like.dtype)
    out = compute(torch.empty_like(like).copy_(row))
    return not torch.equal(out[1:], out[:-1])


def _inputs(network: torch.nn.Module, run: Callable[[], Any]) -> list[tuple[Any, torch.Tensor]]:
    """Return the convolutions that `run` calls, with their inputs as meta tensors (shape and layout, no values)."""
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
    """Whether `_product` supports the convolution."""
    return (
        convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def _replaced(convolution: Any, values: torch.Tensor) -> bool:
    """Replace the convolution if its result depends on the position at the shape of `values`; return whether it did."""
    if not depends_on_position(
        convolution.forward, torch.empty_like(values, device=convolution.weight.device)
    ):
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
    """Convolve (N, C, h, w) as a product of each pixel's neighbourhood and the weights: the same sums in a fixed order.

    Holds the neighbourhoods, nine times the values for 3 x 3 weights, of at most 1 GiB at a time.
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
    rows = around.permute(0, 2, 3, 4, 5, 1).flatten(3)  # (N, h, w, kernel size times channels)
    mixed = functional.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)
    return mixed.permute(0, 3, 1, 2)
