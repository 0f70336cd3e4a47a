"""Device seconds and joules of a worker, as its time slices are charged with them."""

from types import SimpleNamespace
from typing import Any

from worker.monitoring.device_usage import DeviceUsage

GPU: Any = SimpleNamespace(name="cuda:0", label="H200")
CPU: Any = SimpleNamespace(name="cpu", label="Xeon")


def test_seconds_are_those_since_the_last_call() -> None:
    usage = DeviceUsage(lambda _: None)
    usage.begin(CPU)
    usage.add(1.5)
    usage.add(0.5)
    assert (usage.label, usage.taken(), usage.taken()) == ("Xeon", (2.0, None), (0.0, None))


def test_joules_are_those_since_the_device_was_first_used() -> None:
    counted = [100.0]
    usage = DeviceUsage(lambda name: (lambda: counted[0]) if name == "cuda:0" else None)
    assert usage.taken() == (0.0, None)
    usage.begin(GPU)
    counted[0] = 130.0
    assert usage.taken() == (0.0, 30.0)
    usage.begin(GPU)
    assert usage.taken() == (0.0, 0.0)
    counted[0] = 5.0
    assert usage.taken() == (0.0, 0.0), "the driver was loaded anew, and counts from zero"


def test_a_meter_that_fails_is_no_measurement_and_stops_nothing() -> None:
    is_broken = False

    def read() -> float:
        if is_broken:
            raise OSError("the GPU has fallen off the bus")
        return 1.0

    usage = DeviceUsage(lambda _: read)
    usage.begin(GPU)
    is_broken = True
    assert usage.taken() == (0.0, None)
    is_broken = False
    assert usage.taken() == (0.0, None)
    assert usage.taken() == (0.0, 0.0)
