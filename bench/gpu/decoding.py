"""The cost of decoding: by nightmill's decoder, and by the VAE as diffusers' pipeline calls it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.gpu.architectures import Architecture
from bench.gpu.networks import vae_of
from bench.harness.alternating_measurements import seconds
from models.engine.vae_decode import Decoder
from models.runtime.compile_options import CompileOptions
from models.runtime.device import Device

_ROUNDS = 5


@dataclass(frozen=True)
class Decoding:
    """Milliseconds per image, from latents on the device to pixels on the host."""

    ours_ms: float
    stock_ms: float


def measure_decoding(
    architecture: Architecture, vae: Any, device: Device, rows: int, compile_options: CompileOptions
) -> Decoding:
    """Measure with `rows` images at a time; `vae` is already on the device, as nightmill's model uses it.

    Diffusers' VAE runs in float16 on a GPU, as in the model cards.
    """
    shape = vae.config.latent_channels, architecture.latent_side, architecture.latent_side
    latents = [torch.randn(shape, device=device.name) for _ in range(rows)]
    decoder = Decoder(vae, device.dtype)
    decoder.prepare(shape, at_once=rows, compile_options=compile_options)
    ours_ms = _milliseconds(lambda: decoder.decode(latents, at_once=rows, compile_options=compile_options))
    stock = vae_of(
        architecture, device.name, torch.float16 if device.name.startswith("cuda") else torch.float32
    )
    given = torch.stack(latents).to(stock.dtype) / stock.config.scaling_factor

    def as_diffusers_does() -> torch.Tensor:
        decoded: torch.Tensor = stock.decode(given, return_dict=False)[0]
        return decoded.cpu()

    return Decoding(ours_ms / rows, _milliseconds(as_diffusers_does) / rows)


@torch.inference_mode()
def _milliseconds(decode: Callable[[], object]) -> float:
    """Return the shortest of several runs, without the first."""
    decode()
    return 1000 * min(seconds(decode) for _ in range(_ROUNDS))
