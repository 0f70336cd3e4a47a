"""Every sampler's steps, as numbers, against the scheduler that they were read off."""

import inspect
import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from models.catalogue import samplers
from models.catalogue.samplers import SAMPLERS
from models.engine.sampler_matrices import REGISTERS, SamplerMatrices, SamplerMatricesCache
from models.engine.schedulers import make_scheduler, noise_schedule, start_late

SHAPE = (1, 4, 8, 8)


def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    """Not linear, and different at every step, as a UNet."""
    return torch.tanh(latents.roll(1, dims=1) - 0.3 * latents) + math.sin(timestep)


def by_the_scheduler(scheduler: Any, timesteps: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    takes = inspect.signature(scheduler.step).parameters
    extra = {"generator": torch.Generator().manual_seed(1)} if "generator" in takes else {}
    for timestep in timesteps:
        output = predict(scheduler.scale_model_input(latents, timestep), float(timestep))
        latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
    return latents


def by_the_numbers(matrices: SamplerMatrices, latents: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    registers = torch.zeros(REGISTERS, latents.numel())
    registers[0] = latents.flatten()
    for call in range(len(matrices)):
        output = predict(registers[0].view(SHAPE) * matrices.scales[call], float(matrices.timesteps[call]))
        noise = torch.zeros(SHAPE)
        if matrices.is_noisy[call]:
            noise = torch.randn(SHAPE, generator=generator)
        known = torch.cat([registers, output.view(1, -1), noise.view(1, -1)])
        registers = torch.from_numpy(matrices.matrices[call]) @ known
    return registers[0].view(SHAPE)


@pytest.mark.parametrize("strength", [None, 1.0, 0.6])
@pytest.mark.parametrize("steps", [2, 3, 5, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_takes_the_schedulers_steps(
    sampler: str, prediction: str, steps: int, strength: float | None
) -> None:
    matrices_cache = SamplerMatricesCache(dict(noise_schedule(prediction).config))
    matrices = matrices_cache.of(sampler, steps, strength)
    scheduler = make_scheduler(sampler, matrices_cache.config, steps)
    timesteps = scheduler.timesteps if strength is None else start_late(scheduler, steps, strength)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    expected = by_the_scheduler(scheduler, timesteps, noise)
    found = by_the_numbers(matrices, noise)
    assert (found - expected).abs().max() <= 5e-6 * expected.abs().max()
    assert len(matrices) == len(timesteps)
    assert matrices.is_noisy.any() == (sampler == "euler_a" and len(matrices) > 1)
    assert matrices_cache.of(sampler, steps, strength) is matrices


def test_steps_that_are_no_sums_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cutting = samplers.Sampler("DDIM", "DDIMScheduler", {"clip_sample": True})
    monkeypatch.setitem(samplers._SAMPLERS, "ddim", cutting)
    with pytest.raises(ValueError, match="'ddim' of this checkpoint cuts values off"):
        SamplerMatricesCache(dict(noise_schedule("epsilon").config)).of("ddim", 4)


def test_samplers_that_remember_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hoarder(DDPMScheduler):  # type: ignore[misc]
        def step(self, output: Any, *_: Any, **__: Any) -> Any:
            self.kept = [*getattr(self, "kept", []), output.clone()]
            return (output,)

    monkeypatch.setattr("diffusers.DDPMScheduler", Hoarder)
    monkeypatch.setitem(
        samplers._SAMPLERS, "ddim", samplers.Sampler("Hoarder", "DDPMScheduler", {"clip_sample": False})
    )
    with pytest.raises(ValueError, match=f"Hoarder remembers more than {REGISTERS - 1} latents"):
        SamplerMatricesCache(dict(noise_schedule("epsilon").config)).of("ddim", 20)
