"""Train the x4 upscaler: a UNet on the f4 autoencoder's latents, concatenated with the small picture."""

from typing import Any

import torch
from torch.nn.functional import avg_pool2d, mse_loss

from models.shapes.grammar import caption
from models.shapes.training.data import crops
from models.shapes.training.loop import Course, fit, half
from models.shapes.training.networks.autoencoder import signed
from models.shapes.training.networks.clip import text_settings
from models.shapes.training.networks.denoiser import Denoiser
from models.shapes.training.networks.text_encoder import token_ids
from models.shapes.training.noising import Noising, spread_steps
from models.shapes.world import random_scene

MAX_NOISE_LEVEL = 100
_WIDTH = 32


def low_res_schedule() -> Any:
    """Return the noise schedule of the small picture (Ho et al. 2020, "linear"), of which the first steps are used."""
    from diffusers import DDPMScheduler  # noqa: PLC0415

    return DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")


def new_upscaler(tokenizer: Any, seed: int) -> Denoiser:
    """Return an untrained UNet for latents and small picture, seven channels together."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=7,
        out_channels=4,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=_WIDTH,
        num_class_embeds=128,
    )
    text = CLIPTextModel(CLIPTextConfig(**text_settings(tokenizer, _WIDTH, layers=1), projection_dim=_WIDTH))
    return Denoiser(unet, text)


def train_upscaler(
    model: Denoiser, side: int, vae: Any, tokenizer: Any, course: Course, *, as_sampled: bool
) -> Denoiser:
    """Train `model` to predict v (Salimans & Ho 2022) of the latents of a crop of `side` pixels.

    Its input is the crop at a quarter of its size, with noise; half of the small pictures are slightly blurred, as
    generated ones are. In this domain, a small picture determines the large one: captions are of random scenes or
    empty, so that they have no effect. With `as_sampled`, half of the noisy latents come from noisier ones through a
    sampling step of the model.
    """
    rng, plan, device = course.chance(), course.plan, course.device
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    noising, low_res = Noising(device), low_res_schedule()
    scale = vae.config.scaling_factor

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        large = signed(crops(rng, plan.rows, side), device)
        with torch.no_grad(), half(device):
            latents = vae.encode(large).latent_dist.sample().float() * scale
        levels = torch.randint(0, MAX_NOISE_LEVEL, (plan.rows,), device=device)
        small = _softened(avg_pool2d(large, 4))
        small = low_res.add_noise(small, torch.randn_like(small), levels)
        captions = [caption(*random_scene(rng), rng, 0.7) if rng.random() < 0.7 else "" for _ in levels]
        text = model.text_encoder(token_ids(tokenizer, captions, device))[0]
        steps = spread_steps(plan.rows, device)

        def predict(noisy: torch.Tensor, steps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            given, said = torch.cat([noisy, small[rows]], dim=1), text[rows]
            found = model.unet(given, steps, encoder_hidden_states=said, class_labels=levels[rows])
            velocity: torch.Tensor = found.sample.float()
            return velocity

        with half(device, on_cpu=False):
            noisy = (
                noising.as_sampled(latents, steps, predict) if as_sampled else noising.noisy(latents, steps)
            )
            predicted = predict(noisy, steps, torch.ones_like(steps, dtype=torch.bool))
        return {"velocity": mse_loss(predicted, noising.velocity(noisy, latents, steps))}

    trained: Denoiser = fit(model, course, loss_of)
    return trained


def _softened(small: torch.Tensor) -> torch.Tensor:
    soft = avg_pool2d(small, 3, stride=1, padding=1, count_include_pad=False)
    amount = (torch.rand(len(small), 1, 1, 1, device=small.device) * 1.2 - 0.6).clamp(min=0)
    return torch.lerp(small, soft, amount)
