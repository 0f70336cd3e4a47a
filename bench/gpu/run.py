"""The figures of one run of `gpu`, with their goals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.gpu.architectures import Architecture
from bench.gpu.budget import Budget
from bench.gpu.ceiling import matmul_ceiling
from bench.harness.progress import note
from bench.harness.results import Figure, Goal, at_least
from models.runtime.compile_options import CompileOptions
from models.runtime.device import Device, pick_device
from models.runtime.memory_options import FULL

GOALS: Mapping[str, Goal] = {
    "sd_1_5_of_ceiling": at_least(0.55),
    "sd_1_5_per_stock_1": at_least(6),
    "sd_1_5_per_stock_equal": at_least(1.8),
    "sd_2_1_768_of_ceiling": at_least(0.6),
    "shuffled_per_alike": at_least(0.95),
    "end_to_end_per_bare": at_least(0.97),
}
"""Goals for a GPU; a tiny model on a CPU has none."""

H200_GOALS: Mapping[str, Goal] = {"sd_1_5_images_per_s": at_least(5.2)}

ALWAYS: Mapping[str, Goal] = {"identical_hashes": at_least(1)}


@dataclass
class Run:
    """The measurements on one device; `rows`, if any are given, replace the architectures' own batch sizes.

    `compile` is a value of NIGHTMILL_COMPILE. `report` is called after each new figure. `ceiling` is FLOP/s, 0 until it
    is measured; `start_s` is about how long a model takes until its first figure, 0 until one was measured.
    """

    device: Device
    budget: Budget
    is_tiny: bool = False
    rows: Sequence[int] = ()
    compile: str = "auto"
    report: Callable[[], None] = lambda: None
    figures: dict[str, Figure] = field(default_factory=dict)
    ceiling: float = 0.0
    start_s: float = 0.0

    @property
    def compile_options(self) -> CompileOptions:
        """Return the compile options as a worker has them. Raises ModelError for an unknown value."""
        return CompileOptions.choose(self.compile, FULL, self.device)

    def device_of(self, architecture: Architecture) -> Device:
        """Return the device as a worker uses it for that model: with the precision of its card."""
        return pick_device(self.device.name, precision=architecture.precision)

    def add(self, key: str, value: float, unit: str, against: str | None = None) -> None:
        """Add a figure with its goal, if it has one on this device."""
        self.figures[key] = Figure(value, unit, against, self._goal(key))
        note(f"  {key} {value:,.4g} {unit}")
        self.report()

    def _goal(self, key: str) -> Goal | None:
        if self.is_tiny or not self.device.name.startswith("cuda"):
            return ALWAYS.get(key)
        h200 = H200_GOALS if "H200" in self.device.label else {}
        return ({**GOALS, **ALWAYS, **h200}).get(key)

    def measure_ceiling(self) -> None:
        """Measure the device's limit, which other figures are compared with."""
        size, duration_s = (256, 0.2) if self.is_tiny else (8192, 3.0)
        self.ceiling = matmul_ceiling(self.device.name, self.device.dtype, size=size, duration_s=duration_s)
        kind = str(self.device.dtype).removeprefix("torch.")
        what = f"products of random {kind} matrices, {size} x {size}, for {duration_s:g} s"
        self.add("ceiling_tflops", self.ceiling / 1e12, "TFLOP/s", what)
