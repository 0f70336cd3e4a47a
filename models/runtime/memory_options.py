"""Options that reduce memory use: packed weights, attention slicing, VAE slicing and tiling."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from models.errors import ModelError
from models.optional_packages import require

if TYPE_CHECKING:
    from models.runtime.device import Device

Weights = Literal["full", "fp8", "int8", "int4"]
LowMemory = Literal["auto", "on", "off"]

_PACKED = ("int8", "int4")

_LITTLE = 7_000_000_000
"""Bytes below which a device counts as short of memory: a GPU sold with 6 GB does, one with 8 GB doesn't."""


@dataclass(frozen=True)
class MemoryOptions:
    """Which measures are taken to save memory.

    `weights` change every image slightly: fp8 applies to the UNet, int8 and int4 to the text encoder, too.
    `vae_tiling` changes only images larger than the VAE was trained on; the slicing options don't change images but
    take time.
    """

    weights: Weights = "full"
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False

    @classmethod
    def choose(cls, weights: str, low_memory: str, device: "Device") -> Self:
        """Choose by settings: `weights` full, fp8, int8 or int4, `low_memory` auto (depends on the device), on or off.

        Attention is sliced on Apple's GPUs alone: elsewhere torch never holds all attention scores, and slices would
        need more memory. Raises ModelError for other words, and for fp8 on Apple's GPUs.
        """
        _check("weights", weights, get_args(Weights))
        _check("low_memory", low_memory, get_args(LowMemory))
        if weights == "fp8" and device.name == "mps":
            raise ModelError(
                "weights 'fp8' can't be held on Apple's GPUs, which know no float8: use int8 or full"
            )
        is_low = low_memory == "on" or (low_memory == "auto" and device.memory() < _LITTLE)
        return cls(
            cast(Weights, str(weights)),
            attention_slicing=is_low and device.name == "mps",
            vae_slicing=is_low,
            vae_tiling=is_low,
        )

    def notes(self) -> dict[str, str]:
        """Return the options that affect pixels: weight format and its library's version, VAE tiling."""
        found = {"vae": "tiled"} if self.vae_tiling else {}
        if self.weights != "full":
            found["weights"] = self.weights
        return found | ({"bitsandbytes": version("bitsandbytes")} if self.weights in _PACKED else {})

    def quantise(self, pipeline: Any, device: "Device") -> None:
        """Quantise the weights of the UNet and the text encoder onto the device; as fp8, those of the UNet in place.

        Raises ModelError if bitsandbytes is needed and missing.
        """
        require_packer(self.weights)
        if self.weights == "fp8":
            from models.runtime.float8_weight_storage import hold  # noqa: PLC0415 - imports torch, which settings don't need

            hold(pipeline.unet)
        if self.weights in _PACKED:
            from models.runtime.quantised_weights import quantise  # noqa: PLC0415

            for network in (pipeline.unet, pipeline.text_encoder):
                quantise(network, 8 if self.weights == "int8" else 4, device.name)

    def slice(self, pipeline: Any) -> None:
        """Enable attention slicing, VAE slicing and VAE tiling in the pipeline."""
        if self.attention_slicing:
            pipeline.enable_attention_slicing()
        if self.vae_slicing:
            pipeline.vae.enable_slicing()
        if self.vae_tiling:
            pipeline.vae.enable_tiling()


FULL = MemoryOptions()


def require_packer(weights: str) -> None:
    """Raise ModelError if `weights` need bitsandbytes and it isn't installed."""
    if weights in _PACKED:
        require("packed", f"weights '{weights}' need")


def _check(name: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ModelError(f"unknown {name} {word!r}; there are {', '.join(words)}")
