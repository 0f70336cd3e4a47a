"""A pool of encoded training scenes, so that not every batch has to be encoded anew."""

import math
from typing import Any

import numpy as np
import torch

from models.shapes.drawing import draw
from models.shapes.grammar import caption
from models.shapes.training.loop import Plan, half
from models.shapes.training.networks.autoencoder import signed
from models.shapes.world import Place, Relation, Scene, random_scene

_UNGUIDED = 0.1
_DETAIL = 0.85
_SIZE = 8_192
_REFILL = 64
_REFILL_EVERY = 10


class Pool:
    """Encoded scenes, the oldest of which are replaced continually; captions are reworded at each draw.

    It holds 8,192 scenes, or as many as the `plan` uses if that is less; `pairs` is the share of scenes with two
    shapes.
    """

    def __init__(
        self, vae: Any, rng: np.random.Generator, device: torch.device, plan: Plan, pairs: float = 0.5
    ) -> None:
        wanted = plan.steps * plan.rows
        self.refill = min(_REFILL, wanted)
        size = min(_SIZE, self.refill * math.ceil(wanted / self.refill))
        self.vae, self.rng, self.device, self.pairs = vae, rng, device, pairs
        self.said: list[tuple[Scene, Place | None, Relation | None]] = []
        self.latents = torch.empty(size, 8, 8, 8, device=device)
        self.oldest = self.draws = 0
        for _ in range(0, size, self.refill):
            self._refill()

    def take(self, rows: int) -> tuple[torch.Tensor, list[str]]:
        """Return latents (rows, 4, 8, 8), scaled, and captions, some of them empty for guidance."""
        self.draws += 1
        if self.draws % _REFILL_EVERY == 0:
            self._refill()
        places = self.rng.integers(0, len(self.latents), rows)
        captions = [
            "" if self.rng.random() < _UNGUIDED else caption(*self.said[int(place)], self.rng, _DETAIL)
            for place in places
        ]
        mean, deviation = self.latents[torch.from_numpy(places)].chunk(2, dim=1)
        drawn: torch.Tensor = (mean + deviation * torch.randn_like(mean)) * self.vae.config.scaling_factor
        return drawn, captions

    @torch.no_grad()
    def _refill(self) -> None:
        places = range(self.oldest, self.oldest + self.refill)
        scenes = [random_scene(self.rng, self.pairs) for _ in places]
        pixels = np.stack([draw(scene) for scene, _, _ in scenes])
        with half(self.device):
            known = self.vae.encode(signed(pixels, self.device)).latent_dist
        self.latents[self.oldest : self.oldest + self.refill] = torch.cat(
            [known.mean, known.std], dim=1
        ).float()
        self.said[self.oldest : self.oldest + self.refill] = scenes
        self.oldest = (self.oldest + self.refill) % len(self.latents)
