"""Layers on the CPU whose result for a row doesn't depend on its position in the batch.

PyTorch splits the values of an activation into one chunk per thread, and computes the remainder of a chunk that is
shorter than two vectors one value at a time, which rounds differently. Where a chunk ends depends on the number of rows
and of threads: on three cores, or with images of 72 pixels, it may end inside an image.

Attention is computed by blocks of queries in a buffer of which each thread has a part. With fewer queries than a block
has, the parts of all threads but the first begin at unaligned addresses, where matrix products round differently.

Matrix products with up to three columns, such as those of a classifier with two labels, sum some rows in another order
than others on some processors. With AVX2 alone, Intel's MKL computes the rows that are left over from its blocks by
another kernel, which rounds differently; its strict reproducible mode doesn't (oneMKL developer guide, "Conditional
Numerical Reproducibility"), and takes up to half as long again.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

Activation = Callable[[torch.Tensor], torch.Tensor]

_AT_LEAST = 32768
"""Minimum number of values per chunk (`at::internal::GRAIN_SIZE`)."""
_VECTORS = 64
"""More values than two vectors of any processor hold, and a multiple of every vector length."""
_BLOCK = 32
"""Queries in the smallest full block (`cpu_flash_attention` in ATen/native/cpu/FlashAttentionKernel.cpp)."""
_FEW_COLUMNS = 16
"""Products with fewer are computed row by row: several times as many as have shown where a row stands."""
_ATTENTIONS = ("Attention", "CLIPAttention", "ViTAttention")
_KINDS = ("SiLU", "GELU", "GELUActivation", "QuickGELUActivation")


def request_strict_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Ask MKL for its strict mode on processors that need it, unless its variable is set; before the first product."""
    try:
        text = cpuinfo.read_text()
    except OSError:  # another system than Linux
        return
    if _needs_strict_products(text):
        os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")


def _needs_strict_products(cpuinfo: str) -> bool:
    parted = (line.partition(":") for line in cpuinfo.splitlines())
    fields = {name.strip(): value.split() for name, _, value in parted}
    flags = fields.get("flags", [])
    return fields.get("vendor_id") == ["GenuineIntel"] and "avx2" in flags and "avx512f" not in flags


request_strict_products()


def make_batch_invariant(network: torch.nn.Module) -> None:
    """Make activations of `network` compute a batch row by row where chunks would end inside a vector.

    Likewise attention layers where there are few queries, and linear layers with few outputs.
    """
    module: Any
    for module in network.modules():
        if type(module).__name__ in _KINDS:
            module.forward = steady(module.forward)
        elif type(module).__name__ in _ATTENTIONS:
            _derive(module, lambda _, forward: _row_by_row_attention(forward))
        elif type(module).__name__ == "GEGLU":
            module.gelu = steady(module.gelu)
        elif type(module).__name__ == "GroupNorm":
            _derive(module, lambda it, forward: steady(forward, partial(_groups_are_even, it.num_groups)))
        elif type(module).__name__ == "Linear" and module.out_features < _FEW_COLUMNS:
            _derive(module, lambda _, forward: steady(lambda values: forward(values.clone()), _is_one_row))


def _derive(module: Any, wrap: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap the `forward` of a module with weights, so that a copy of the module uses its own weights."""
    kind = type(module)
    plain = kind.forward

    def forward(self: Any, *given: Any, **named: Any) -> Any:
        return wrap(self, partial(plain, self))(*given, **named)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def steady(activation: Activation, is_even: Callable[[torch.Tensor], bool] | None = None) -> Activation:
    """Wrap `activation`, of values (N, …) on the CPU, so that a row's result doesn't depend on its position."""

    def by_row(values: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or (is_even or _is_even)(values):
            return activation(values)
        return torch.cat([activation(row) for row in torch.split(values, 1)])

    return by_row


def _row_by_row_attention(attention: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `attention`, of (N, tokens, C) or (N, C, H, W), so that a row's result doesn't depend on its position.

    The values are the first argument; other arguments with N rows are passed row by row. Of a tuple, only the first
    element, the result, is returned; the others become None.
    """

    def by_row(hidden_states: torch.Tensor, *others: Any, **named: Any) -> Any:
        count = hidden_states.shape[0]
        if torch.compiler.is_compiling() or count == 1 or _has_blocks(hidden_states):
            return attention(hidden_states, *others, **named)

        def row(value: Any, number: int) -> Any:
            has_rows = isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] == count
            return (
                value[number : number + 1].clone() if has_rows else value
            )  # a clone begins at an aligned address

        found = [
            attention(
                row(hidden_states, number),
                *(row(value, number) for value in others),
                **{name: row(value, number) for name, value in named.items()},
            )
            for number in range(count)
        ]
        if isinstance(found[0], tuple):
            return torch.cat([result for result, *_ in found]), *[None] * (len(found[0]) - 1)
        return torch.cat(found)

    return by_row


def _has_blocks(values: torch.Tensor) -> bool:
    """Whether every thread's buffer begins at an aligned address."""
    queries = values.shape[2:].numel() if values.dim() == 4 else values.shape[1]
    return torch.get_num_threads() == 1 or queries >= _BLOCK


def _is_even(values: torch.Tensor) -> bool:
    """Whether all chunks consist of whole vectors."""
    if _is_one_row(values):
        return True
    threads, count = torch.get_num_threads(), values.numel()
    few = min(threads, -(-count // _AT_LEAST))  # GELU uses all threads, the others fewer for small tensors
    is_one_line = values.is_contiguous() or values.shape[-1] % _VECTORS == 0
    return is_one_line and count % (_VECTORS * few) == 0 == count % (_VECTORS * threads)


def _is_one_row(values: torch.Tensor) -> bool:
    return values.shape[0] == 1


def _groups_are_even(groups: int, values: torch.Tensor) -> bool:
    """Whether all threads get the same number of channel groups."""
    return _is_one_row(values) or values.shape[0] * groups % torch.get_num_threads() == 0
