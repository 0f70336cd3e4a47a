"""The machine that figures are measured on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Processor, cores that this process may use, memory in GB (10**9 bytes), versions."""

    cpu: str
    cores: int
    memory_gb: float
    python: str
    postgresql: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb:g} GB, Python {self.python}, "
            f"PostgreSQL {self.postgresql}"
        )


def this_machine(postgresql: str) -> Machine:
    """Return this machine; `postgresql` is the server's version."""
    import psutil  # noqa: PLC0415 - `gpu` doesn't need it

    memory = psutil.virtual_memory().total / 1e9
    return Machine(processor(), cores(), round(memory, 1), platform.python_version(), postgresql)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
