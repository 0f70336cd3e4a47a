"""The GPU that figures are measured on."""

import platform
from dataclasses import dataclass
from importlib.metadata import version

import torch

from bench.harness.machine import cores, processor
from models.runtime.nvml_driver_and_energy import driver_version


@dataclass(frozen=True)
class GPUMachine:
    """The GPU (or none) and its memory in GB (10**9 bytes), versions, processor, cores that this process may use."""

    gpu: str | None
    memory_gb: float | None
    driver: str | None
    cuda: str | None
    torch: str
    diffusers: str
    transformers: str
    python: str
    cpu: str
    cores: int

    def __str__(self) -> str:
        gpu = (
            f"{self.gpu}, {self.memory_gb:g} GB, driver {self.driver or 'unknown'}, CUDA {self.cuda}; "
            if self.gpu
            else ""
        )
        return (
            f"{gpu}{self.cpu}, {self.cores} cores, Python {self.python}, torch {self.torch}, "
            f"diffusers {self.diffusers}, transformers {self.transformers}"
        )


def this_gpu(device: str) -> GPUMachine:
    """Return the machine with the torch device of that name."""
    is_gpu = device.startswith("cuda")
    properties = torch.cuda.get_device_properties(device) if is_gpu else None
    return GPUMachine(
        gpu=properties.name if properties else None,
        memory_gb=round(properties.total_memory / 1e9, 1) if properties else None,
        driver=driver_version() if is_gpu else None,
        cuda=torch.version.cuda if is_gpu else None,
        torch=str(torch.__version__),
        diffusers=version("diffusers"),
        transformers=version("transformers"),
        python=platform.python_version(),
        cpu=processor(),
        cores=cores(),
    )
