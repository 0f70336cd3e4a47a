"""Measure the device's matrix throughput, to estimate render times before the first render."""

import time
from typing import Any

from models.runtime.device import Device

SHARE = 0.3
"""Share of the matrix throughput that a UNet reaches in plain PyTorch, text encoder and VAE included; conservative."""


SLICES, SLICE_S = 8, 0.04


def usable_gflops(device: Device) -> float:
    """Return the GFLOP/s that a render may reach: `SHARE` of a square matrix product's, measured in under a second.

    The quickest of `SLICES` counts: what else the machine is doing then makes the least difference.
    """
    import torch  # noqa: PLC0415

    size = 1024 if device.name == "cpu" else 8192
    matrix = torch.ones(size, size, dtype=device.dtype, device=device.name)
    for _ in range(2):
        float((matrix @ matrix)[0, 0])
    quickest = min(_product_s(matrix) for _ in range(SLICES))
    return SHARE * 2 * size**3 / quickest / 1e9


def _product_s(matrix: Any) -> float:
    """Return the seconds of a product, as the mean over a slice of time."""
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < SLICE_S:
        float((matrix @ matrix)[0, 0])
        rounds += 1
    return (time.perf_counter() - started) / rounds
