"""Further training of a text-to-image model with guidance, and on latents from its own sampling steps."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import mse_loss

from models.shapes.training.loop import Course, fit, half
from models.shapes.training.networks.denoiser import Denoiser
from models.shapes.training.networks.latent_pool import Pool
from models.shapes.training.networks.text_encoder import token_ids
from models.shapes.training.noising import Noising, spread_steps


@dataclass(frozen=True)
class Text:
    """Encoded captions (N, 32, C), and which of them are not empty (N, 1, 1, 1)."""

    states: torch.Tensor
    is_said: torch.Tensor

    @classmethod
    def of(cls, states: torch.Tensor, captions: list[str]) -> "Text":
        """Create it from encoded states and their captions."""
        said = torch.tensor([bool(words) for words in captions], device=states.device)
        return cls(states, said.view(-1, 1, 1, 1))

    def rows(self, which: torch.Tensor) -> "Text":
        """Return some of the rows."""
        return Text(self.states[which], self.is_said[which])


def guided(
    unet: Any, noisy: torch.Tensor, steps: torch.Tensor, text: Text, empty: torch.Tensor, strength: float
) -> torch.Tensor:
    """Return v with classifier-free guidance (Ho & Salimans 2022): u + strength (c - u), or c for an empty caption.

    c is the prediction for the caption, u for `empty`, the encoded empty caption; no gradient flows through u.
    """
    told = unet(noisy, steps, encoder_hidden_states=text.states).sample.float()
    with torch.no_grad():
        plain = empty.expand_as(text.states)
        untold = unet(noisy, steps, encoder_hidden_states=plain).sample.float()
    velocity: torch.Tensor = torch.where(text.is_said, untold + strength * (told - untold), told)
    return velocity


def train_guided(
    model: Denoiser,
    vae: Any,
    tokenizer: Any,
    course: Course,
    guidance: float,
    pairs: float,
) -> Denoiser:
    """Train a copy of the model so that its prediction with classifier-free guidance of this strength is v.

    Half of the noisy latents come from noisier ones through a sampling step of the current model, with up to twice this
    guidance.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    model = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.text_encoder.requires_grad_(False)
    pool, noising = Pool(vae, rng, device, plan, pairs), Noising(device)
    with torch.no_grad():
        empty = model.text_encoder(token_ids(tokenizer, [""], device))[0]

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        latents, captions = pool.take(plan.rows)
        steps = spread_steps(plan.rows, device)
        text = Text.of(model.text_encoder(token_ids(tokenizer, captions, device))[0], captions)

        def predict(noisy: torch.Tensor, steps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            strength = guidance * (1 + float(rng.random()))
            return guided(model.unet, noisy, steps, text.rows(rows), empty, strength)

        with half(device, on_cpu=False):
            noisy = noising.as_sampled(latents, steps, predict)
            predicted = guided(model.unet, noisy, steps, text, empty, guidance)
        return {"velocity": mse_loss(predicted, noising.velocity(noisy, latents, steps))}

    trained: Denoiser = fit(model, course, loss_of)
    return trained


@torch.no_grad()
def mixed(trained: Denoiser, begun: Denoiser, share: float) -> Denoiser:
    """Move each weight of `trained` by `share` of the way to that of `begun` (Wortsman et al. 2022, WiSE-FT)."""
    for new, old in zip(trained.parameters(), begun.parameters(), strict=True):
        new.lerp_(old, share)
    return trained
