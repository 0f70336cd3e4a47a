"""How long a worker's device was in use since the last call, and the joules that it used, if it counts them."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.runtime.device import Device

Meter = Callable[[], float]
"""Returns the joules that a device has used since some moment in the past; raises OSError."""


def _joule_meter(device: str) -> Meter | None:
    from models.runtime.nvml_driver_and_energy import joule_meter  # noqa: PLC0415 - imports torch

    return joule_meter(device)


class DeviceUsage:
    """Adds up what a worker's device was used for; threads may share one."""

    def __init__(self, find_meter: Callable[[str], Meter | None] = _joule_meter) -> None:
        self.label: str | None = None
        self._find_meter, self._lock = find_meter, threading.Lock()
        self._meter: Meter | None = None
        self._device_s = 0.0
        self._joules: float | None = None

    def begin(self, device: "Device") -> None:
        """Note which device is used from now on; its label is None before."""
        with self._lock:
            if self.label != device.label:
                self.label, self._meter = device.label, self._find_meter(device.name)
                self._joules = self._read()

    def add(self, seconds: float) -> None:
        """Add seconds that the device worked."""
        with self._lock:
            self._device_s += seconds

    def taken(self) -> tuple[float, float | None]:
        """Return the seconds and joules since the last call; None for joules where nothing counts them.

        The joules are all that the device used, also between device batches and by other processes on it.
        """
        with self._lock:
            seconds, self._device_s = self._device_s, 0.0
            before, self._joules = self._joules, self._read()
        if before is None or self._joules is None:
            return seconds, None
        return seconds, max(0.0, self._joules - before)  # a driver that was loaded anew counts from zero

    def _read(self) -> float | None:
        try:
            return self._meter() if self._meter else None
        except OSError:
            return None
