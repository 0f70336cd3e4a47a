"""Choosing a device, and running out of its memory."""

import platform

import pytest
import torch

from models.errors import ModelError, OutOfMemoryError
from models.runtime.device import Device, memory_errors, pick_device, versions


def test_the_cpu_computes_in_float32_whatever_the_card_says() -> None:
    device = pick_device("cpu", precision="bfloat16")
    assert (device.name, device.dtype, device.rows) == ("cpu", torch.float32, 4)
    assert "threads" in device.label


def test_auto_takes_what_is_there() -> None:
    expected = (
        "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    assert pick_device().name == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_refuses_an_unknown_device(name: str) -> None:
    with pytest.raises(ModelError, match="unknown device"):
        pick_device(name)


def test_refuses_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="no GPU cuda:99 here"):
        pick_device("cuda:99")
    with pytest.raises(ModelError, match="no GPU cuda:77 here"):
        pick_device("cuda", index=77)


def test_names_the_versions_that_decide_the_pixels() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert {"torch", "diffusers", "transformers"} <= set(found)


def test_memory_that_runs_out_is_one_of_our_errors(device: Device) -> None:
    with pytest.raises(OutOfMemoryError, match="no memory left"), memory_errors(device):
        torch.empty(2**55, dtype=torch.uint8)


def test_other_errors_pass(device: Device) -> None:
    with pytest.raises(RuntimeError, match="must match"), memory_errors(device):
        torch.zeros(2) + torch.zeros(3)
