"""What only a CUDA device can show: nothing waits for it, and graphs, compiled or not, keep images apart."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from models.assess.safety_checker import SafetyChecker
from models.catalogue.catalogue import Catalogue
from models.catalogue.samplers import SAMPLERS
from models.diffusion.requests import ImageRequest
from models.engine.denoising_slots import UNetBatch
from models.errors import OutOfMemoryError
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.runtime.batch_invariant_cuda_convolutions import (
    depends_on_position,
    replace_batch_dependent_convolutions,
)
from models.runtime.compile_options import CompileOptions
from models.runtime.device import Device, pick_device
from models.runtime.memory_options import FULL, MemoryOptions
from models.store.resolve_checkpoint import resolve

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
]

_SMALL = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def cuda() -> Device:
    return pick_device("cuda")


@pytest.fixture(scope="module", params=["off", "on"])
def model(request: pytest.FixtureRequest, catalogue: Catalogue, cuda: Device) -> StableDiffusion:
    checkpoint = resolve(catalogue.get("tiny-random"), catalogue.models_dir)
    return StableDiffusion.load(
        checkpoint, cuda, compile_options=CompileOptions.choose(request.param, FULL, cuda)
    )


def uncompiled(device: Device) -> CompileOptions:
    return CompileOptions.choose("off", FULL, device)


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_calls_wait_for_nothing(
    model: StableDiffusion, image: Callable[..., ImageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [image(seed=seed, sampler=sampler, steps=8) for seed, sampler in enumerate(SAMPLERS)]
    model.render(requests, rows=4)  # libraries set themselves up
    call, calls = UNetBatch.call, []

    def watched(batch: UNetBatch) -> list[object]:
        calls.append(batch)
        with nothing_waits():
            return list(call(batch))

    monkeypatch.setattr(UNetBatch, "call", watched)
    model.render(requests, rows=4)
    assert len(calls) > 8


def test_a_picture_does_not_depend_on_its_neighbours(
    model: StableDiffusion, image: Callable[..., ImageRequest]
) -> None:
    for sampler in SAMPLERS:
        asked = image(sampler=sampler, seed=3)
        others = [image(seed=10 + n, steps=2 + n, sampler=SAMPLERS[n], guidance_scale=n) for n in range(7)]
        (alone,) = model.render([asked], rows=4)
        for place in range(8):
            mixed = [*others[:place], asked, *others[place:]]
            assert np.array_equal(model.render(mixed, rows=4)[place].pixels, alone.pixels)


def test_the_device_draws_what_the_cpu_draws(
    model: StableDiffusion, tiny: StableDiffusion, image: Callable[..., ImageRequest]
) -> None:
    requests = [image(sampler=sampler, seed=seed) for seed, sampler in enumerate(SAMPLERS)]
    here, there = tiny.render(requests, rows=4), model.render(requests, rows=4)
    for one, other in zip(here, there, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", [8, 16, 32])
@torch.inference_mode()
def test_convolutions_show_no_places(side: int, dtype: torch.dtype) -> None:
    """Those of Stable Diffusion's UNet, of which cuDNN adds up some in parts."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(1280, 1280, 3, padding=1, device="cuda", dtype=dtype)
    network = torch.nn.Sequential(convolution).to(memory_format=torch.channels_last)
    values = torch.randn(32, 1280, side, side, device="cuda", dtype=dtype)
    values = values.contiguous(memory_format=torch.channels_last)
    before = network(values)
    replace_batch_dependent_convolutions(network, lambda: network(values))
    assert not depends_on_position(network, values)
    assert torch.allclose(network(values), before, atol=0.02)


def test_small_pictures_are_enlarged_alike(upscaler: Upscaler, cuda: Device) -> None:
    model = Upscaler.load(upscaler.checkpoint, cuda, compile_options=uncompiled(cuda))
    requests = [
        UpscaleRequest(
            pixels=_SMALL[n],
            prompt=f"a red bird {n}",
            steps=2 + n,
            guidance_scale=4.0 * n,
            sampler="ddim",
            seed=n,
        )
        for n in range(3)
    ]
    for one, other in zip(upscaler.render(requests, rows=2), model.render(requests, rows=2), strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 2
    (alone,) = model.render(requests[1:2], rows=2)
    assert np.array_equal(model.render(requests, rows=2)[1].pixels, alone.pixels)


@pytest.mark.parametrize("system", ["v1", "v2-inpainting", "v2-depth"])
def test_given_pictures_are_read_alike(
    load: Callable[[str], StableDiffusion], image: Callable[..., ImageRequest], cuda: Device, system: str
) -> None:
    here = load(system)
    there = StableDiffusion.load(here.checkpoint, cuda, compile_options=uncompiled(cuda))
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:, 20:] = 255
    given: dict[str, Any] = {"image": picture, "strength": 0.7, "steps": 5}
    requests = [
        image(seed=n, sampler=SAMPLERS[n], **given, **({"mask": mask} if "paint" in system else {}))
        for n in range(4)
    ]
    for one, other in zip(here.render(requests, rows=2), there.render(requests, rows=2), strict=True):
        assert other.defect is None
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 3
    (alone,) = there.render(requests[2:3], rows=2)
    assert np.array_equal(there.render(requests, rows=2)[2].pixels, alone.pixels)


def test_approximations_are_recorded(
    catalogue: Catalogue, image: Callable[..., ImageRequest], tiny: StableDiffusion, cuda: Device
) -> None:
    held = MemoryOptions("fp8")
    model = StableDiffusion.load(
        tiny.checkpoint, cuda, memory_options=held, compile_options=CompileOptions.choose("auto", held, cuda)
    )
    requests = [image(seed=n, steps=4 + n, sampler=SAMPLERS[n]) for n in range(5)]
    for cache_interval in (1, 2):
        together = model.render(requests, rows=2, cache_interval=cache_interval)
        (alone,) = model.render(requests[3:4], rows=2, cache_interval=cache_interval)
        assert np.array_equal(together[3].pixels, alone.pixels)


def test_a_batch_is_recorded_while_other_threads_use_the_device(
    catalogue: Catalogue, image: Callable[..., ImageRequest], tiny: StableDiffusion, cuda: Device
) -> None:
    checker = SafetyChecker.load(resolve(catalogue.get("tiny-random-safety"), catalogue.models_dir), cuda)
    model = StableDiffusion.load(tiny.checkpoint, cuda, compile_options=uncompiled(cuda))
    pixels, over, found = list(_SMALL), threading.Event(), list[object]()

    def score() -> None:
        while not over.is_set():
            try:
                found.append(checker.score(pixels))
                torch.zeros(2**20 + len(found) * 512, pin_memory=True)
                torch.cuda.empty_cache()
            except RuntimeError as error:
                found.append(error)
                return

    thread = threading.Thread(target=score)
    thread.start()
    try:
        for side in (64, 72, 80, 88, 96, 104):
            (picture,) = model.render([image(width=side, height=side)], rows=1)
            assert picture.defect is None
    finally:
        over.set()
        thread.join()
    assert len(found) > 3
    assert all(scores == found[0] for scores in found), found[-1]


def test_rows_are_tried_until_memory_runs_out(tiny: StableDiffusion, cuda: Device) -> None:
    model = StableDiffusion.load(tiny.checkpoint, cuda, compile_options=uncompiled(cuda))
    assert model.measure_throughput(64, 64, 4) > 0
    with pytest.raises(OutOfMemoryError):
        model.measure_throughput(2048, 2048, 2**14)
    assert model.measure_throughput(64, 64, 4) > 0
