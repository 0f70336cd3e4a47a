"""Weights stored in 8 or 4 bits and unpacked when a layer computes."""

from typing import Any, Literal

import torch

from models.runtime.library_logging import quiet

Bits = Literal[4, 8]

_BLOCK = 64


def quantise(network: torch.nn.Module, bits: Bits, device: str) -> None:
    """Pack the weights of all linear layers and convolutions of `network`, layer by layer, onto `device`.

    Blocks of 64 weights share a scale: 8 bits hold a dynamic code (Dettmers et al. 2022, 8-bit optimizers via
    block-wise quantization), 4 bits NF4 (Dettmers et al. 2023, QLoRA). Layers compute in their original number format;
    an unpacked weight exists only while its layer computes. Weights whose size isn't a multiple of 64 are not packed.
    """
    with quiet():
        from bitsandbytes import functional  # noqa: PLC0415 - needed for packed weights only

    layer: Any
    for layer in list(network.modules()):
        packed_class = _PACKED.get(type(layer))
        if packed_class is None or layer.weight.numel() % _BLOCK:
            continue
        weight = layer.weight.detach().to(device)
        flat = weight.reshape(-1, _BLOCK)
        if bits == 4:
            codes, state = functional.quantize_4bit(flat, blocksize=_BLOCK, quant_type="nf4")
        else:
            codes, state = functional.quantize_blockwise(flat, blocksize=_BLOCK)
        del layer.weight
        layer.packed = _Packed(codes, state, weight.shape)
        layer.__class__ = packed_class


def stored_bytes(network: torch.nn.Module) -> int:
    """Return the size in bytes of all weights of `network` as stored."""
    tensors = [*network.parameters(), *network.buffers()]
    for layer in network.modules():
        if isinstance(layer, (_PackedLinear, _PackedConv2d)):
            tensors += layer.packed.tensors()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Packed:
    """A weight stored as codes with one scale per block."""

    def __init__(self, codes: torch.Tensor, state: Any, shape: torch.Size) -> None:
        self._codes = codes
        self._state = state
        self._shape = shape

    def unpacked(self) -> torch.Tensor:
        """Return the weight in its original format and shape."""
        from bitsandbytes import functional  # noqa: PLC0415

        is_4bit = self._state.quant_type == "nf4"
        unpack = functional.dequantize_4bit if is_4bit else functional.dequantize_blockwise
        weight: torch.Tensor = unpack(self._codes, self._state)
        return weight.view(self._shape)

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors that are stored per weight; the code book is the library's and shared."""
        return [self._codes, self._state.absmax]


class _PackedLinear(torch.nn.Linear):
    packed: _Packed

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.packed.unpacked()


class _PackedConv2d(torch.nn.Conv2d):
    packed: _Packed

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.packed.unpacked()


_PACKED = {torch.nn.Linear: _PackedLinear, torch.nn.Conv2d: _PackedConv2d}
