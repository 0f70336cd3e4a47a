"""How a model is kept in little memory, and what that costs."""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from models.errors import ModelError

if TYPE_CHECKING:
    from models.runtime.device import Device

Weights = Literal["full", "fp8", "int8", "int4"]
LowMemory = Literal["auto", "on", "off"]

_PACKED = ("int8", "int4")

_LITTLE = 7_000_000_000
"""Bytes of a device that is short of memory: a GPU sold with 6 GB is, one with 8 GB isn't."""


@dataclass(frozen=True)
class MemoryOptions:
    """What is done to need less memory.

    `weights` change every picture a little: fp8 are those of the UNet, int8 and int4 the text encoder's too.
    `vae_tiling` changes only pictures larger than the VAE was trained on; the other two change nothing but take time.
    """

    weights: Weights = "full"
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False

    @classmethod
    def choose(cls, weights: str, low_memory: str, device: "Device") -> Self:
        """By words of the settings: `weights` full, fp8, int8 or int4, `low_memory` auto (by the device), on or off.

        Attention is sliced on Apple's GPUs alone: elsewhere torch never holds all of its scores, and slices would
        hold more. Raises ModelError for other words, and for fp8 on Apple's GPUs.
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
        """Of what is done, that which can change pixels: packed weights and what packed them, a tiled VAE."""
        found = {"vae": "tiled"} if self.vae_tiling else {}
        if self.weights != "full":
            found["weights"] = self.weights
        return found | ({"bitsandbytes": version("bitsandbytes")} if self.weights in _PACKED else {})

    def quantise(self, pipeline: Any, device: "Device") -> None:
        """Packs the weights of the UNet and the text encoder onto the device; as fp8, those of the UNet where it is.

        Raises ModelError without a packer.
        """
        require_packer(self.weights)
        if self.weights == "fp8":
            from models.runtime.float8_weights import hold  # noqa: PLC0415 - brings torch, which settings don't need

            hold(pipeline.unet)
        if self.weights in _PACKED:
            from models.runtime.quantised_weights import quantise  # noqa: PLC0415

            for network in (pipeline.unet, pipeline.text_encoder):
                quantise(network, 8 if self.weights == "int8" else 4, device.name)

    def slice(self, pipeline: Any) -> None:
        """Has the pipeline compute attention and pictures in parts."""
        if self.attention_slicing:
            pipeline.enable_attention_slicing()
        if self.vae_slicing:
            pipeline.vae.enable_slicing()
        if self.vae_tiling:
            pipeline.vae.enable_tiling()


FULL = MemoryOptions()


def require_packer(weights: str) -> None:
    """Raises ModelError where this installation lacks what packs `weights` so."""
    if weights in _PACKED and find_spec("bitsandbytes") is None:
        raise ModelError(f"weights '{weights}' need bitsandbytes: pip install 'nightmill[packed]'")


def _check(name: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ModelError(f"unknown {name} {word!r}; there are {', '.join(words)}")
