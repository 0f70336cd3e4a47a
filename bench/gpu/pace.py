"""Measures images per second, peak memory and joules of an image generator."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.harness.alternating_measurements import seconds
from models.runtime.nvml_driver_and_energy import joule_meter

WAVES = 3
_LONGEST_S = 20.0

Draw = Callable[[int, int], None]
"""Generates this many images of this many steps, and returns when they are done."""


@dataclass(frozen=True)
class Pace:
    """`how` describes the measurement. Memory is torch's peak, in bytes; None without a GPU."""

    rows: int
    images_per_s: float
    how: str
    peak_bytes: int | None
    joules_per_image: float | None


def measure_pace(draw: Draw, rows: int, steps: int, device: str, allowance_s: float) -> Pace:
    """Time whole images, `rows` at once, up to three times as time allows; else extrapolate from two shorter runs.

    A first run of some steps isn't counted: it compiles and allocates.
    """
    short = max(2, steps // 10)
    draw(rows, short)
    first_s = seconds(lambda: draw(rows, short))
    whole_s = first_s * steps / short
    waves = min(WAVES, int(min(allowance_s, _LONGEST_S) / whole_s))
    meter = _Meter(device)
    if waves:
        taken_s = seconds(lambda: draw(waves * rows, steps))
        count = waves * rows
        return Pace(
            rows, count / taken_s, f"{count} images of {steps} steps", meter.peak(), meter.joules(count)
        )
    longer = min(steps, max(short + 2, int(steps * allowance_s / whole_s)))
    step_s = (seconds(lambda: draw(rows, longer)) - first_s) / (longer - short)
    images_per_s = rows / (first_s + step_s * (steps - short))
    how = f"reckoned from {short} and {longer} of {steps} steps, {rows} images"
    return Pace(rows, images_per_s, how, meter.peak(), None)


class _Meter:
    """Measures memory and energy from its creation on."""

    def __init__(self, device: str) -> None:
        self._device, self._is_gpu = device, device.startswith("cuda")
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._read = joule_meter(device)
        self._before = self._read() if self._read else 0.0

    def peak(self) -> int | None:
        return torch.cuda.max_memory_reserved(self._device) if self._is_gpu else None

    def joules(self, images: int) -> float | None:
        return (self._read() - self._before) / images if self._read else None
