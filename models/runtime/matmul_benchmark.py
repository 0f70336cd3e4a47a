"""Measure the device's matrix throughput, to estimate render times before the first render."""

import time

from models.runtime.device import Device

SHARE = 0.3
"""Share of the matrix throughput that a UNet reaches in plain PyTorch, text encoder and VAE included; conservative."""


def usable_gflops(device: Device) -> float:
    """Return the GFLOP/s that a render may reach: `SHARE` of a square matrix product's, measured in about 0.2 s."""
    import torch  # noqa: PLC0415

    size = 1024 if device.name == "cpu" else 8192
    matrix = torch.ones(size, size, dtype=device.dtype, device=device.name)
    for _ in range(2):
        float((matrix @ matrix)[0, 0])
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        float((matrix @ matrix)[0, 0])
        rounds += 1
    seconds = (time.perf_counter() - started) / rounds
    return SHARE * 2 * size**3 / seconds / 1e9
