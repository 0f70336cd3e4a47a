"""Little memory: what is chosen, what it saves, and what it does to the pictures."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import SlicedAttnProcessor
from safetensors.torch import save_file

from models.diffusion.requests import ImageRequest
from models.errors import ModelError
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.optional_packages import EXTRAS
from models.runtime.device import Device
from models.runtime.float8_weight_storage import hold
from models.runtime.memory_options import FULL, MemoryOptions
from models.runtime.quantised_weights import quantise, stored_bytes
from tests.models import checkpoints

_PARTS = ("unet", "text_encoder", "vae")

Make = Callable[..., ImageRequest]


def _pixels(model: StableDiffusion, request: ImageRequest) -> np.ndarray:
    [picture] = model.render([request], rows=2)
    assert picture.defect is None
    return picture.pixels.astype(int)


@pytest.mark.parametrize(("bits", "share", "error"), [(8, 0.27, 0.02), (4, 0.16, 0.15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(torch.nn.Linear(320, 64), (3, 320)), (torch.nn.Conv2d(32, 64, 3, padding=1), (2, 32, 8, 8))],
)
def test_packed_layers_compute_nearly_the_same_from_a_part_of_the_bytes(
    *,
    bits: Any,
    share: float,
    error: float,
    dtype: torch.dtype,
    layer: torch.nn.Module,
    shape: tuple[int, ...],
) -> None:
    whole = torch.nn.Sequential(layer).to(dtype)
    packed = torch.nn.Sequential(type(layer)(*_sizes(layer))).to(dtype)
    packed.load_state_dict(whole.state_dict())
    quantise(packed, bits, "cpu")
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        expected, drawn = whole(values).float(), packed(values)
    assert drawn.dtype == dtype
    assert 0 < (drawn.float() - expected).norm() / expected.norm() < error
    assert stored_bytes(packed) <= share * stored_bytes(whole.float())
    assert not any(name.endswith("weight") for name, _ in packed.named_parameters())


def _sizes(layer: Any) -> tuple[Any, ...]:
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding


@pytest.mark.parametrize(("weights", "share", "difference"), [("int8", 0.32, 2), ("int4", 0.22, 20)])
def test_a_model_is_loaded_with_packed_weights(
    *,
    load: Callable[[str], StableDiffusion],
    device: Device,
    image: Make,
    weights: str,
    share: float,
    difference: float,
) -> None:
    whole = load("v2")
    packed = StableDiffusion.load(
        whole.checkpoint, device, memory_options=MemoryOptions.choose(weights, "off", device)
    )
    for name in ("unet", "text_encoder"):
        before, after = (stored_bytes(getattr(model.pipeline, name)) for model in (whole, packed))
        assert after < (share if name == "unet" else 0.45) * before
    difference_seen = np.abs(_pixels(packed, image()) - _pixels(whole, image())).mean()
    assert 0 < difference_seen < difference
    assert np.array_equal(_pixels(packed, image()), _pixels(packed, image()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(torch.nn.Linear(320, 64), (3, 320)), (torch.nn.Conv2d(32, 64, 3, padding=1), (2, 32, 8, 8))],
)
def test_layers_compute_nearly_the_same_from_float8(
    dtype: torch.dtype, layer: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    whole = torch.nn.Sequential(deepcopy(layer)).to(dtype)
    with torch.no_grad():
        whole[0].weight[0] = 0
        for parameter in whole.parameters():
            parameter.mul_(1e-2)  # the format has no numbers as small as that
    held = deepcopy(whole)
    hold(held)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    compiled = torch.compile(held, backend="eager", fullgraph=True)
    with torch.inference_mode():
        expected, drawn = whole(values).float(), held(values)
        assert torch.equal(compiled(values), drawn)
    assert drawn.dtype == dtype
    assert 0 < (drawn.float() - expected).norm() / expected.norm() < 0.04
    assert stored_bytes(held) <= 0.27 * stored_bytes(whole.float())
    assert held[0].held.dtype == torch.float8_e4m3fn


def test_a_unet_is_held_in_float8_and_nothing_else(
    load: Callable[[str], StableDiffusion], device: Device, image: Make
) -> None:
    whole = load("v2")
    held = StableDiffusion.load(whole.checkpoint, device, memory_options=MemoryOptions("fp8"))
    sizes = [[stored_bytes(getattr(model.pipeline, name)) for model in (whole, held)] for name in _PARTS]
    assert sizes[0][1] < 0.32 * sizes[0][0]
    assert [before == after for before, after in sizes[1:]] == [True, True]
    assert held.pipeline.unet.dtype == whole.pipeline.unet.dtype
    assert 0 < np.abs(_pixels(held, image()) - _pixels(whole, image())).mean() < 6
    assert np.array_equal(_pixels(held, image()), _pixels(held, image()))


def test_loras_are_merged_before_weights_are_packed(
    load: Callable[[str], StableDiffusion], device: Device, image: Make, tmp_path: Path
) -> None:
    plain = load("v1")
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for name, layer in plain.pipeline.unet.named_modules():
        if name.endswith((".to_q", ".to_v")):
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator) / 4
            weights[f"unet.{name}.lora_B.weight"] = (
                torch.randn(layer.out_features, 2, generator=generator) / 4
            )
    save_file(weights, tmp_path / "lora.safetensors")
    loras = [(replace(plain.checkpoint, path=tmp_path / "lora.safetensors"), 1.0)]
    whole = StableDiffusion.load(plain.checkpoint, device, loras=loras)
    packed = StableDiffusion.load(plain.checkpoint, device, loras=loras, memory_options=MemoryOptions("int8"))
    unchanged = StableDiffusion.load(plain.checkpoint, device, memory_options=MemoryOptions("int8"))
    assert stored_bytes(packed.pipeline.unet) == stored_bytes(unchanged.pipeline.unet)
    drawn = _pixels(packed, image())
    by_packing = np.abs(drawn - _pixels(whole, image())).mean()
    assert by_packing < np.abs(drawn - _pixels(plain, image())).mean() / 3


def test_the_upscaler_takes_weights_in_fewer_bits_and_slices(models_dir: Path, device: Device) -> None:
    checkpoint = checkpoints.checkpoint("x4", models_dir)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    request = UpscaleRequest(pixels=pixels, prompt="a", steps=2, guidance_scale=4.0, sampler="ddim", seed=1)
    sliced = MemoryOptions(attention_slicing=True, vae_slicing=True, vae_tiling=True)
    full, *others = (
        Upscaler.load(checkpoint, device, memory_options=memory_options).render([request])[0]
        for memory_options in (FULL, MemoryOptions("int8"), MemoryOptions("fp8"), sliced)
    )
    assert full.pixels.shape == (96, 96, 3)
    for other in others:
        assert other.defect is None
        assert np.abs(other.pixels.astype(int) - full.pixels).mean() < 8


def test_slices_change_nothing_and_tiles_only_large_pictures(
    load: Callable[[str], StableDiffusion], device: Device, image: Make
) -> None:
    whole = load("v1")
    memory_options = MemoryOptions(attention_slicing=True, vae_slicing=True, vae_tiling=True)
    sliced = StableDiffusion.load(whole.checkpoint, device, memory_options=memory_options)
    processors = sliced.pipeline.unet.attn_processors.values()
    assert all(isinstance(processor, SlicedAttnProcessor) for processor in processors)
    assert sliced.pipeline.vae.use_slicing
    same, large = image(), image(width=128, height=128)
    assert np.abs(_pixels(sliced, same) - _pixels(whole, same)).max() <= 1
    assert 0 < np.abs(_pixels(sliced, large) - _pixels(whole, large)).mean() < 10


class _Sized(Device):
    """A device of a known size."""

    def memory(self) -> int:
        return int(self.label)


def _sized(name: str, gigabytes: float) -> Device:
    return _Sized(name, torch.float16, str(int(gigabytes * 1e9)), rows=1)


@pytest.mark.parametrize(
    ("low_memory", "device", "expected"),
    [
        ("auto", _sized("cuda:0", 6.2), MemoryOptions(vae_slicing=True, vae_tiling=True)),
        ("auto", _sized("cuda:0", 8.2), FULL),
        (
            "auto",
            _sized("mps", 5.3),
            MemoryOptions(attention_slicing=True, vae_slicing=True, vae_tiling=True),
        ),
        ("off", _sized("mps", 5.3), FULL),
        ("on", _sized("cpu", 500), MemoryOptions(vae_slicing=True, vae_tiling=True)),
    ],
)
def test_chooses_by_the_devices_memory(low_memory: str, device: Device, expected: MemoryOptions) -> None:
    assert MemoryOptions.choose("full", low_memory, device) == expected


def test_the_cpu_tells_its_memory(device: Device) -> None:
    assert device.memory() > 2**30
    assert MemoryOptions.choose("int4", "off", device) == MemoryOptions("int4")


@pytest.mark.parametrize(
    ("weights", "low_memory", "message"),
    [
        ("int6", "auto", "unknown weights 'int6'; there are full, fp8, int8, int4"),
        ("full", "yes", "unknown low_memory 'yes'; there are auto, on, off"),
    ],
)
def test_refuses_other_words(device: Device, weights: str, low_memory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        MemoryOptions.choose(weights, low_memory, device)


def test_apples_gpus_hold_no_float8() -> None:
    with pytest.raises(ModelError, match="'fp8' can't be held on Apple's GPUs"):
        MemoryOptions.choose("fp8", "off", _sized("mps", 16))


def test_without_the_packer_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "packed", ("absent_here",))
    with pytest.raises(ModelError, match=r"pip install 'nightmill\[packed\]'"):
        MemoryOptions(weights="int8").quantise(None, Device("cpu", torch.float32, "CPU", rows=1))
