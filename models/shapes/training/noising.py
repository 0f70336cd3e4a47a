"""Noise on latents, and v, which the UNets predict: what leads back."""

from collections.abc import Callable

import torch

from models.engine.schedulers import noise_schedule

_LEAST_STEP = 100
_LONGEST_STRIDE = 250

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def spread_steps(rows: int, device: torch.device) -> torch.Tensor:
    """Random time steps (rows,) of 0 to 999, one in each of as many equal parts (Kingma et al. 2021, appendix I.1).

    Batches then differ less in how hard they are than with steps drawn one by one.
    """
    parts = torch.arange(rows, device=device) + torch.rand(rows, device=device)
    return (parts * (1000 / rows)).long().clamp(max=999)


class Noising:
    """How much of a picture and how much noise there is at each of the schedule's 1000 steps."""

    def __init__(self, device: torch.device) -> None:
        alphas = noise_schedule("v_prediction").alphas_cumprod.to(device).view(-1, 1, 1, 1)
        self.signal: torch.Tensor = alphas.sqrt()
        self.noise: torch.Tensor = (1 - alphas).sqrt()

    def noisy(self, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, H, W) with the noise of these steps (N,)."""
        return self.signal[steps] * latents + self.noise[steps] * torch.randn_like(latents)

    def velocity(self, noisy: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The v (Salimans & Ho 2022) that leads from noisy latents to these."""
        return (self.signal[steps] * noisy - latents) / self.noise[steps]

    def stride(
        self, noisy: torch.Tensor, velocity: torch.Tensor, steps: torch.Tensor, to: torch.Tensor
    ) -> torch.Tensor:
        """A step of DDIM (Song et al. 2021): from the noise of `steps` to that of `to`."""
        latents = self.signal[steps] * noisy - self.noise[steps] * velocity
        noise = self.signal[steps] * velocity + self.noise[steps] * noisy
        return self.signal[to] * latents + self.noise[to] * noise

    def as_sampled(self, latents: torch.Tensor, steps: torch.Tensor, predict: Predict) -> torch.Tensor:
        """Latents with the noise of these steps; half of them came to it from noisier ones, by a stride.

        Sampling meets nothing else, and what gets mixed up there stays so where a UNet has only seen true pictures
        with noise (exposure bias: Ning et al. 2023). `predict(noisy, steps, rows)` gives v for the rows of a mask.
        """
        noisy = self.noisy(latents, steps)
        rows = torch.arange(len(steps), device=steps.device) % 2 * (steps >= _LEAST_STEP) > 0
        if rows.any():
            before = (steps[rows] + torch.randint_like(steps[rows], 1, _LONGEST_STRIDE)).clamp(max=999)
            noisier = self.noisy(latents[rows], before)
            with torch.no_grad():
                velocity = predict(noisier, before, rows)
            noisy[rows] = self.stride(noisier, velocity, before, steps[rows])
        return noisy
