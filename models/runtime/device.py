"""The compute device of a model: its name, number format, memory and default batch size."""

import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch

from models.catalogue.card import Precision
from models.errors import ModelError, OutOfMemoryError

_OTHERS = 0.1
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class Device:
    """A device: `name` is torch's ("cpu", "cuda:0", "mps"), `label` is for display, `rows` the default batch size."""

    name: str
    dtype: torch.dtype
    label: str
    rows: int

    def memory(self) -> int:
        """Return the total memory in bytes; for an Apple GPU, the maximum that the system recommends."""
        if self.name == "cpu":
            import psutil  # noqa: PLC0415 - rendering needs torch, diffusers, transformers and pydantic only

            return int(psutil.virtual_memory().total)
        if self.name == "mps":
            return int(torch.mps.recommended_max_memory())
        return int(torch.cuda.get_device_properties(self.name).total_memory)

    def free_memory(self) -> int:
        """Return the bytes that are free, not counting torch's cache."""
        if self.name == "cpu":
            import psutil  # noqa: PLC0415

            return int(psutil.virtual_memory().available)
        if self.name == "mps":
            return self.memory() - int(torch.mps.driver_allocated_memory())
        return int(torch.cuda.mem_get_info(self.name)[0])

    def is_mostly_ours(self) -> bool:
        """Whether other processes hold little of its memory, so that this process itself used up what ran out."""
        if self.name == "cpu":
            import psutil  # noqa: PLC0415

            own = int(psutil.Process().memory_info().rss)
        elif self.name == "mps":
            return True
        else:
            own = int(torch.cuda.memory_reserved(self.name))
        return self.memory() - self.free_memory() - own < _OTHERS * self.memory()

    def compiles_float8(self) -> bool:
        """Whether torch.compile supports float8 there: on NVIDIA GPUs from compute capability 8.9."""
        return not self.name.startswith("cuda") or torch.cuda.get_device_capability(self.name) >= (8, 9)

    def wait(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.name.startswith("cuda"):
            torch.cuda.synchronize(self.name)
        elif self.name == "mps":
            torch.mps.synchronize()

    def check(self) -> None:
        """Check the device with a small computation. Raises ModelError if it fails or the result is wrong."""
        try:
            ones = torch.ones(64, 64, device=self.name, dtype=self.dtype)
            found = float((ones @ ones).float().sum())
        except RuntimeError as error:
            raise ModelError(
                f"{self.label} doesn't compute any more: {str(error).splitlines()[0]}"
            ) from error
        if found != 64**3:
            raise ModelError(f"{self.label} computes wrongly: {found} in place of {64**3}")

    def give_back(self) -> None:
        """Release torch's cached memory to the device."""
        gc.collect()
        if self.name.startswith("cuda"):
            torch.cuda.empty_cache()
        elif self.name == "mps":
            torch.mps.empty_cache()


def pick_device(name: str = "auto", index: int = 0, precision: Precision = "float32") -> Device:
    """Return the device `name`: "auto", "cpu", "cuda", "cuda:1", "mps"; `index` is the GPU if `name` has none.

    `precision` is the card's; the CPU always uses float32. Raises ModelError if there is no such device.
    """
    if precision not in get_args(Precision):
        raise ModelError(f"unknown precision {precision!r}; there are {', '.join(get_args(Precision))}")
    kind, _, number = (_best_kind() if name == "auto" else name).partition(":")
    if number and not number.isdecimal():
        raise ModelError(f"unknown device {name!r}; there are auto, cpu, cuda, cuda:<number> and mps")
    dtype: torch.dtype = getattr(torch, precision)
    match kind:
        case "cpu":
            return Device("cpu", torch.float32, _cpu_label(), rows=4)
        case "cuda":
            return _cuda(int(number) if number else index, dtype)
        case "mps" if torch.backends.mps.is_available():
            return Device("mps", dtype, f"{platform.machine()} GPU", rows=8)
        case "mps":
            raise ModelError("no Apple GPU (mps) can be used here; choose the device cpu or auto")
    raise ModelError(f"unknown device {name!r}; there are auto, cpu, cuda, cuda:<number> and mps")


def versions() -> dict[str, str]:
    """Return the versions of what affects pixels: python, torch, diffusers, transformers; cuda if torch has it."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    found |= {name: version(name) for name in ("diffusers", "transformers")}
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


@contextmanager
def memory_errors(device: Device) -> Iterator[None]:
    """Convert torch's out-of-memory errors to OutOfMemoryError, and free the device's cache."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            text in str(error) for text in _NO_MEMORY
        ):
            raise
        device.give_back()
        raise OutOfMemoryError(f"no memory left on {device.label} ({device.name}): {error}") from error


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cuda(index: int, dtype: torch.dtype) -> Device:
    count = torch.cuda.device_count()
    if index >= count:
        raise ModelError(f"no GPU cuda:{index} here: torch sees {count}; choose another one, cpu or auto")
    return Device(f"cuda:{index}", dtype, torch.cuda.get_device_name(index), rows=8)


def _cpu_label() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} threads"
