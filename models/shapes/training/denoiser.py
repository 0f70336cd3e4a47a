"""Training the text-to-image model: a UNet on the autoencoder's latents, together with its text encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from models.shapes.drawing import draw
from models.shapes.grammar import caption
from models.shapes.training.autoencoder import signed
from models.shapes.training.clip import LIMIT, text_settings
from models.shapes.training.loop import Plan, fit, half
from models.shapes.world import Place, Relation, Scene, random_scene

_WIDTH = 96
_UNGUIDED = 0.12
_SNR_CAP = 5.0
_REFILL = 64
_REFILL_EVERY = 6


class Denoiser(torch.nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder


def noise_schedule(prediction_type: str = "epsilon") -> Any:
    """Stable Diffusion's noise schedule (Rombach et al. 2022)."""
    from diffusers import DDIMScheduler  # noqa: PLC0415

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
    )


def make_text_encoder(tokenizer: Any) -> Any:
    """An untrained CLIP text encoder of 96 channels."""
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    return CLIPTextModel(CLIPTextConfig(**text_settings(tokenizer, _WIDTH, layers=3), projection_dim=_WIDTH))


def new_denoiser(tokenizer: Any, seed: int) -> Denoiser:
    """An untrained UNet for latents of 8x8 with its text encoder."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=_WIDTH,
    )
    return Denoiser(unet, make_text_encoder(tokenizer))


def train_denoiser(
    model: Denoiser,
    vae: Any,
    tokenizer: Any,
    plan: Plan,
    device: torch.device,
    seed: int,
    log: Path,
) -> Denoiser:
    """Trains `model`, or trains it on, to predict the noise in latents (Ho et al. 2020).

    Rows are weighted by min(SNR, 5)/SNR (Hang et al. 2023).
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = noise_schedule()
    alphas = schedule.alphas_cumprod.to(device)
    pool = Pool(vae, rng, device)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        latents, captions = pool.take(plan.rows)
        tokens = tokenizer(
            captions, padding="max_length", max_length=LIMIT, truncation=True, return_tensors="pt"
        )
        steps = torch.randint(0, 1000, (plan.rows,), device=device)
        noise = torch.randn_like(latents)
        noisy = schedule.add_noise(latents, noise, steps)
        with half(device, on_cpu=False):
            text = model.text_encoder(tokens.input_ids.to(device))[0]
            predicted = model.unet(noisy, steps, encoder_hidden_states=text).sample.float()
        ratio = alphas[steps] / (1 - alphas[steps])
        weight = (_SNR_CAP / ratio).clamp(max=1)
        return {"noise": (weight * mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))).mean()}

    trained: Denoiser = fit(model, plan, loss_of, log)
    return trained


class Pool:
    """Encoded scenes, of which the oldest are replaced all the time; captions are worded anew at each draw."""

    def __init__(self, vae: Any, rng: np.random.Generator, device: torch.device, size: int = 8_192) -> None:
        self.vae, self.rng, self.device = vae, rng, device
        self.said: list[tuple[Scene, Place | None, Relation | None]] = []
        self.latents = torch.empty(size, 8, 8, 8, device=device)
        self.oldest = self.draws = 0
        for _ in range(0, size, _REFILL):
            self._refill()

    def take(self, rows: int) -> tuple[torch.Tensor, list[str]]:
        """Latents (rows, 4, 8, 8), scaled, and captions, some of them empty for guidance."""
        self.draws += 1
        if self.draws % _REFILL_EVERY == 0:
            self._refill()
        places = self.rng.integers(0, len(self.latents), rows)
        captions = [
            "" if self.rng.random() < _UNGUIDED else caption(*self.said[int(place)], self.rng, 0.75)
            for place in places
        ]
        mean, deviation = self.latents[torch.from_numpy(places)].chunk(2, dim=1)
        drawn: torch.Tensor = (mean + deviation * torch.randn_like(mean)) * self.vae.config.scaling_factor
        return drawn, captions

    @torch.no_grad()
    def _refill(self) -> None:
        places = range(self.oldest, self.oldest + _REFILL)
        scenes = [random_scene(self.rng) for _ in places]
        pixels = np.stack([draw(scene) for scene, _, _ in scenes])
        with half(self.device):
            known = self.vae.encode(signed(pixels, self.device)).latent_dist
        self.latents[self.oldest : self.oldest + _REFILL] = torch.cat([known.mean, known.std], dim=1).float()
        self.said[self.oldest : self.oldest + _REFILL] = scenes
        self.oldest = (self.oldest + _REFILL) % len(self.latents)
