"""Pretrain the text encoder before the UNet uses it: minutes, where training both together takes hours."""

from typing import Any

import torch
from torch.nn.functional import mse_loss

from models.shapes.training.loop import Course, fit
from models.shapes.training.networks.auxiliary_heads import Said
from models.shapes.training.networks.clip import LIMIT, text_settings
from models.shapes.training.networks.latent_pool import Pool

WIDTH = 96


class Reader(torch.nn.Module):
    """A text encoder with two heads on its last token: the caption's content, and its picture's mean latents."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.said = Said(WIDTH)
        self.latents = torch.nn.Linear(WIDTH, 4 * 8 * 8)


def train_text_encoder(vae: Any, tokenizer: Any, course: Course) -> Any:
    """Train a CLIPTextModel of 96 channels whose last token encodes everything that a caption of the grammar says.

    One head classifies each property of the caption, the other predicts the latents: their mean over all pictures of a
    caption is what a UNet has to predict from pure noise.
    """
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    rng, plan, device = course.chance(), course.plan, course.device
    settings = text_settings(tokenizer, WIDTH, layers=3)
    encoder = CLIPTextModel(CLIPTextConfig(**settings, projection_dim=WIDTH))
    reader = Reader(encoder).to(device)
    pool = Pool(vae, rng, device, plan)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        latents, captions = pool.take(plan.rows)
        last = reader.text_encoder(token_ids(tokenizer, captions, device))[0][:, -1]
        return {
            "answers": reader.said.loss(last, captions),
            "latents": mse_loss(reader.latents(last), latents.flatten(1)),
        }

    return fit(reader, course, loss_of).text_encoder


def token_ids(tokenizer: Any, captions: list[str], device: torch.device) -> torch.Tensor:
    """Return token ids (N, 32) int64, as the pipelines pass them to a text encoder."""
    found = tokenizer(captions, padding="max_length", max_length=LIMIT, truncation=True, return_tensors="pt")
    ids: torch.Tensor = found.input_ids.to(device)
    return ids
