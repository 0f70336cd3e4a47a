"""Train the text-to-image model: a UNet on the autoencoder's latents, conditioned on a text encoder."""

from typing import Any

import torch
from torch.nn.functional import mse_loss

from models.shapes.training.loop import Course, fit, half
from models.shapes.training.networks.latent_pool import Pool
from models.shapes.training.networks.text_encoder import WIDTH, token_ids
from models.shapes.training.noising import Noising, spread_steps


class Denoiser(torch.nn.Module):
    """UNet and text encoder in one module."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder


def new_denoiser(text_encoder: Any, seed: int) -> Denoiser:
    """Return an untrained UNet for latents of 8x8, conditioned on this text encoder.

    It attends to the text at 4x4 alone: in the same training time, that learnt more than attention at both sizes.
    """
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )
    return Denoiser(unet, text_encoder)


def train_denoiser(
    model: Denoiser,
    vae: Any,
    tokenizer: Any,
    course: Course,
    pairs: float,
) -> Denoiser:
    """Train the UNet to predict v (Salimans & Ho 2022) of latents; the text encoder is frozen.

    `pairs` is the share of scenes with two shapes.

    With noise as the target, positions aren't learnt: from latents of 8x8, at the noise levels that decide positions, a
    small UNet can't pass its input on precisely enough (docs/decisions/0010).
    """
    rng, plan, device = course.chance(), course.plan, course.device
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.text_encoder.requires_grad_(False)
    noising = Noising(device)
    pool = Pool(vae, rng, device, plan, pairs)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        latents, captions = pool.take(plan.rows)
        steps = spread_steps(plan.rows, device)
        noisy = noising.noisy(latents, steps)
        with half(device, on_cpu=False):
            text = model.text_encoder(token_ids(tokenizer, captions, device))[0]
            predicted = model.unet(noisy, steps, encoder_hidden_states=text).sample.float()
        return {"velocity": mse_loss(predicted, noising.velocity(noisy, latents, steps))}

    trained: Denoiser = fit(model, course, loss_of)
    return trained
