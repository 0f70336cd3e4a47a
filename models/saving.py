"""How a model is kept in little memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

from models.errors import ModelError

if TYPE_CHECKING:
    from models.device import Device

Weights = Literal["full", "int8", "int4"]
LowMemory = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Saving:
    """What is given up for memory. `weights` other than "full" change the pixels; the rest only takes time."""

    weights: Weights = "full"
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False

    @classmethod
    def choose(cls, weights: str, low_memory: str, device: "Device") -> Self:  # noqa: ARG003 - read from here on
        """By the settings' words for `weights` and `low_memory`; raises ModelError for unknown ones."""
        if weights not in get_args(Weights):
            raise ModelError(f"unknown weights {weights!r}; there are {', '.join(get_args(Weights))}")
        if low_memory not in get_args(LowMemory):
            raise ModelError(f"unknown low_memory {low_memory!r}; there are {', '.join(get_args(LowMemory))}")
        is_low = low_memory == "on"
        return cls(weights, attention_slicing=is_low, vae_slicing=is_low, vae_tiling=is_low)  # type: ignore[arg-type]


FULL = Saving()
