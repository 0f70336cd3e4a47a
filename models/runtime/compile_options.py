"""Optimisations of UNet and VAE on CUDA devices that leave the arithmetic unchanged, such as torch.compile."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from models.errors import ModelError
from models.runtime.memory_options import MemoryOptions

if TYPE_CHECKING:
    from models.runtime.device import Device

Compile = Literal["auto", "on", "off"]

_SHAPES = 256


@dataclass(frozen=True)
class CompileOptions:
    """`compiled`: use torch.compile for the UNet; it changes rounding, so it is recorded in the image row.

    `vae_compiled`: compile the VAE's decoder, too. `recorded`: run UNet calls as CUDA graphs. `channels_last`: use the
    channels-last memory format for convolutions.
    """

    compiled: bool = False
    vae_compiled: bool = False
    recorded: bool = False
    channels_last: bool = False

    @classmethod
    def choose(cls, word: str, memory_options: MemoryOptions, device: "Device") -> Self:
        """Choose the options for the setting `word`: auto compiles on CUDA devices, on everywhere, off nowhere.

        int8 and int4 weights are unpacked by a library that supports neither compilation nor CUDA graphs, and attention
        slicing is for devices that support neither; fp8 weights are compiled where the compiler supports the format.
        Raises ModelError for other words, and for `on` with what can't be compiled.
        """
        if word not in get_args(Compile):
            raise ModelError(f"unknown compile {word!r}; there are {', '.join(get_args(Compile))}")
        is_plain = memory_options.weights in {"full", "fp8"} and not memory_options.attention_slicing
        is_cuda = device.name.startswith("cuda")
        can_compile = is_plain and (memory_options.weights == "full" or device.compiles_float8())
        if word == "on" and not can_compile:
            raise ModelError(
                "packed weights and sliced attention can't be compiled: set compile to auto or off"
                if not is_plain
                else f"weights 'fp8' can't be compiled for {device.label}: set compile to auto or off"
            )
        compiled = can_compile and (word == "on" or (word == "auto" and is_cuda))
        return cls(
            compiled=compiled,
            vae_compiled=compiled and not (memory_options.vae_slicing or memory_options.vae_tiling),
            recorded=is_plain and is_cuda,
            channels_last=is_plain and is_cuda,
        )

    def uncompiled(self) -> Self:
        """Return the options without compilation, for so few images that compiling takes longer than it saves."""
        return replace(self, compiled=False, vae_compiled=False)

    def notes(self) -> dict[str, str]:
        """Return the options that affect pixels; recorded in the image row."""
        parts = {"unet": self.compiled, "vae": self.vae_compiled}
        return {name: "compiled" for name, is_compiled in parts.items() if is_compiled}

    def arrange(self, network: Any, *, orders_norms: bool = False) -> None:
        """Apply the memory format to a network; with `orders_norms`, also to its compiled group norms.

        That pays off where images times channels are many, as in a UNet batch.
        """
        import torch  # noqa: PLC0415 - settings don't need it

        from models.runtime.compiled_group_norm import order_norms  # noqa: PLC0415

        if self.channels_last:
            network.to(memory_format=torch.channels_last)
            if self.compiled and orders_norms:
                order_norms(network)

    def compile(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work`, or a version that is compiled at its first call with tensors of a new shape."""
        import torch  # noqa: PLC0415

        if not self.compiled:
            return work
        torch._dynamo.config.recompile_limit = _SHAPES  # one compilation per image size and batch size
        compiled: Callable[..., Any] = torch.compile(work, fullgraph=True, dynamic=False)
        return compiled


PLAIN = CompileOptions()
