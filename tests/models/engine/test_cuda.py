"""What only a CUDA device can show: nothing waits for it, and graphs, compiled or not, keep images apart."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from models.catalogue import Catalogue
from models.checkpoint import resolve
from models.device import pick_device
from models.engine.unet_batch import UNetBatch
from models.samplers import SAMPLERS
from models.saving import FULL
from models.speedup import Speedup
from models.stable_diffusion import ImageRequest, StableDiffusion

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module", params=["off", "on"])
def model(request: pytest.FixtureRequest, catalogue: Catalogue) -> StableDiffusion:
    device = pick_device("cuda")
    checkpoint = resolve(catalogue.get("tiny-random"), catalogue.models_dir)
    return StableDiffusion.load(checkpoint, device, speedup=Speedup.choose(request.param, FULL, device))


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
def test_the_device_draws_what_the_cpu_draws(
    model: StableDiffusion, tiny: StableDiffusion, image: Callable[..., ImageRequest]
) -> None:
    requests = [image(sampler=sampler, seed=seed) for seed, sampler in enumerate(SAMPLERS)]
    here, there = tiny.render(requests, rows=4), model.render(requests, rows=4)
    for one, other in zip(here, there, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 2
