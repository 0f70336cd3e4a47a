"""Training a text-to-image model on as it will be used: guided, and from latents that it has itself come to."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from models.shapes.training.denoiser import Denoiser, noise_schedule, spread_steps
from models.shapes.training.loop import Course, fit, half
from models.shapes.training.pool import Pool
from models.shapes.training.text import token_ids

_LEAST_STEP = 100
_LONGEST_STRIDE = 250
_OF_BEFORE = 0.1


@dataclass(frozen=True)
class Text:
    """Encoded captions (N, 32, C), and whether they say anything (N, 1, 1, 1)."""

    states: torch.Tensor
    is_said: torch.Tensor

    @classmethod
    def of(cls, states: torch.Tensor, captions: list[str]) -> "Text":
        """Of captions as a tokenizer takes them."""
        said = torch.tensor([bool(words) for words in captions], device=states.device)
        return cls(states, said.view(-1, 1, 1, 1))

    def rows(self, which: torch.Tensor) -> "Text":
        """Some of them."""
        return Text(self.states[which], self.is_said[which])


class Guided:
    """What a model predicts under classifier-free guidance (Ho & Salimans 2022), and where that leads."""

    def __init__(self, unet: Any, empty: torch.Tensor) -> None:
        alphas = noise_schedule().alphas_cumprod.to(empty.device).view(-1, 1, 1, 1)
        self.unet, self.empty = unet, empty
        self.signal: torch.Tensor = alphas.sqrt()
        self.noise: torch.Tensor = (1 - self.signal**2).sqrt()

    def noisy(self, latents: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Latents (N, 4, H, W) with the noise of these steps (N,)."""
        return self.signal[steps] * latents + self.noise[steps] * torch.randn_like(latents)

    def velocity(self, noisy: torch.Tensor, steps: torch.Tensor, text: Text, strength: float) -> torch.Tensor:
        """u + strength (c - u), with c for the caption and u, taken as given, for none; c where none is said."""
        told = self.unet(noisy, steps, encoder_hidden_states=text.states).sample.float()
        with torch.no_grad():
            plain = self.empty.expand_as(text.states)
            untold = self.unet(noisy, steps, encoder_hidden_states=plain).sample.float()
        guided: torch.Tensor = torch.where(text.is_said, untold + strength * (told - untold), told)
        return guided

    @torch.no_grad()
    def arrived(
        self, latents: torch.Tensor, steps: torch.Tensor, text: Text, rng: np.random.Generator, least: float
    ) -> torch.Tensor:
        """Latents with the noise of these steps, by a step of DDIM (Song et al. 2021) from noisier ones.

        It is guided by `least` to twice as much.
        """
        before = (steps + torch.randint_like(steps, 1, _LONGEST_STRIDE)).clamp(max=999)
        noisy = self.noisy(latents, before)
        found = self.velocity(noisy, before, text, least * (1 + float(rng.random())))
        picture = self.signal[before] * noisy - self.noise[before] * found
        noise = self.signal[before] * found + self.noise[before] * noisy
        return self.signal[steps] * picture + self.noise[steps] * noise


def train_guided(
    model: Denoiser,
    vae: Any,
    tokenizer: Any,
    course: Course,
    guidance: float,
    pairs: float,
) -> Denoiser:
    """Trains the UNet on so that classifier-free guidance of this strength predicts v.

    Half of the noisy latents aren't made from the picture but come from noisier ones by a step of the model as it is;
    the picture stays what is wanted. Sampling meets nothing else, and colours that got mixed there stay mixed where a
    UNet has only seen pure ones (exposure bias: Ning et al. 2023).

    A tenth of the weights it began from is mixed into the result (Wortsman et al. 2022, WiSE-FT).
    """
    rng, plan, device = course.chance(), course.plan, course.device
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.text_encoder.requires_grad_(False)
    pool = Pool(vae, rng, device, plan, pairs)
    with torch.no_grad():
        guided = Guided(model.unet, model.text_encoder(token_ids(tokenizer, [""], device))[0])

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        latents, captions = pool.take(plan.rows)
        steps = spread_steps(plan.rows, device)
        with half(device, on_cpu=False):
            text = Text.of(model.text_encoder(token_ids(tokenizer, captions, device))[0], captions)
            noisy = guided.noisy(latents, steps)
            own = torch.arange(plan.rows, device=device) % 2 * (steps >= _LEAST_STEP) > 0
            noisy[own] = guided.arrived(latents[own], steps[own], text.rows(own), rng, guidance)
            predicted = guided.velocity(noisy, steps, text, guidance)
        wanted = (guided.signal[steps] * noisy - latents) / guided.noise[steps]
        return {"velocity": mse_loss(predicted, wanted)}

    begun = copy.deepcopy(model)
    trained: Denoiser = fit(model, course, loss_of)
    return mixed(trained, begun, _OF_BEFORE)


@torch.no_grad()
def mixed(trained: Denoiser, begun: Denoiser, share: float) -> Denoiser:
    """`trained` with each weight moved by this share of the way to that of `begun`."""
    for new, old in zip(trained.parameters(), begun.parameters(), strict=True):
        new.lerp_(old, share)
    return trained
