"""NVML, the driver's own library: its version, and the energy that a GPU used. Part of every NVIDIA driver."""

import ctypes
from collections.abc import Callable

import torch

_LIBRARY = "libnvidia-ml.so.1"


def driver_version() -> str | None:
    """Return the driver's version, such as 580.95.05; None where the library is missing or doesn't answer."""
    library = _opened()
    text = ctypes.create_string_buffer(96)
    if library is None or library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))):
        return None
    return text.value.decode("ascii", "replace")


def joule_meter(device: str) -> Callable[[], float] | None:
    """Return a function that reads the joules used since the driver was loaded; None where the GPU doesn't count them.

    NVML's nvmlDeviceGetTotalEnergyConsumption, in mJ: for GPUs from Volta on.
    """
    library = _opened() if device.startswith("cuda") else None
    if library is None:
        return None
    handle = ctypes.c_void_p()
    name = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    uuid = name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}"
    if library.nvmlDeviceGetHandleByUUID(ctypes.c_char_p(uuid.encode()), ctypes.byref(handle)):
        return None
    counted = ctypes.c_ulonglong()

    def read() -> float:
        if code := library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(counted)):
            raise OSError(f"NVML gives no energy: error {code}")
        return counted.value / 1000

    try:
        read()
    except (OSError, AttributeError):
        return None
    return read


def _opened() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return None if library.nvmlInit_v2() else library
