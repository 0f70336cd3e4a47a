"""Noise schedule for training: noisy latents, and the velocity v that the UNets predict."""

from collections.abc import Callable

import torch

from models.engine.schedulers import noise_schedule

_LEAST_STEP = 100
_LONGEST_STRIDE = 250

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def spread_steps(rows: int, device: torch.device) -> torch.Tensor:
    """Return random time steps (rows,) of 0 to 999, one in each of `rows` equal parts of the range.

    With this (Kingma et al. 2021, appendix I.1), the difficulty of batches varies less than with independent steps.
    """
    parts = torch.arange(rows, device=device) + torch.rand(rows, device=device)
    return (parts * (1000 / rows)).long().clamp(max=999)


class Noising:
    """The shares of signal and noise at each of the schedule's 1000 steps."""

    def __init__(self, device: torch.device) -> None:
        alphas = noise_schedule("v_prediction").alphas_cumprod.to(device).view(-1, 1, 1, 1)
        self.signal: torch.Tensor = alphas.sqrt()
        self.noise: torch.Tensor = (1 - alphas).sqrt()

    def noisy(self, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Return latents (N, C, H, W) with the noise of these steps (N,)."""
        return self.signal[steps] * latents + self.noise[steps] * torch.randn_like(latents)

    def velocity(self, noisy: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Return the v (Salimans & Ho 2022) that leads from noisy latents to these."""
        return (self.signal[steps] * noisy - latents) / self.noise[steps]

    def stride(
        self, noisy: torch.Tensor, velocity: torch.Tensor, steps: torch.Tensor, to: torch.Tensor
    ) -> torch.Tensor:
        """Take a DDIM step (Song et al. 2021) from the noise of `steps` to that of `to`."""
        latents = self.signal[steps] * noisy - self.noise[steps] * velocity
        noise = self.signal[steps] * velocity + self.noise[steps] * noisy
        return self.signal[to] * latents + self.noise[to] * noise

    def as_sampled(self, latents: torch.Tensor, steps: torch.Tensor, predict: Predict) -> torch.Tensor:
        """Return latents with the noise of these steps; half of them come from noisier ones through a DDIM step.

        Sampling only sees latents of the latter kind; a UNet trained on true pictures with noise alone doesn't correct
        its own errors there (exposure bias: Ning et al. 2023). `predict(noisy, steps, rows)` gives v for the rows of a
        mask.
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
