"""Measure the speed of UNet calls of one shape on an empty batch."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from models.engine.denoising_slots import LatentShape, UNetBatch
from models.engine.vae_decode import Decoder
from models.engine.whole_and_shallow_unet_calls import UNetForward
from models.errors import OutOfMemoryError
from models.runtime.device import Device, memory_errors

_SECONDS, _CALLS = 0.3, 3


@torch.inference_mode()
def measure_throughput(
    pipeline: Any,
    device: Device,
    latents: LatentShape,
    conditions: Sequence[tuple[int, ...]],
    rows: int,
    forward: UNetForward,
) -> float:
    """Return image steps per second with `rows` guided images at a time, from the fastest of at least three calls.

    Also decodes that many images once, to include the memory that decoding takes. Raises OutOfMemoryError if the
    memory runs out or less than a tenth of it is left.
    """
    with memory_errors(device):
        batch = UNetBatch(pipeline.unet, 2 * rows, latents, conditions, forward=forward)
        batch.call()
        empty = torch.zeros(latents, device=pipeline.unet.device)
        Decoder(pipeline.vae, device.dtype).decode([empty] * rows, at_once=rows)
        if device.free_memory() < device.memory() / 10:
            raise OutOfMemoryError(f"less than a tenth of the memory is left with {rows} images at once")
        return rows / _fastest(batch, device)


def _fastest(batch: UNetBatch, device: Device) -> float:
    took: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(took) < _CALLS or time.perf_counter() < until:
        started = time.perf_counter()
        batch.call()
        device.wait()
        took.append(time.perf_counter() - started)
    return min(took)
