"""The denoising loop: one UNet call a step over a batch of fixed shape, the sampler's own step after it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Conditions:
    """What the UNet is told beside the latents, for a batch of N rows.

    `text` is (N, tokens, width), or with guidance (2N, tokens, width), the unconditional half first.
    `guidance` is (N, 1, 1, 1) float32, or None to run without the unconditional half. `image`, (N, C, H, W),
    is put beside the latents: a small picture, a mask and what it leaves of a picture, or a depth map. `labels`,
    (N,), are the upscaler's class labels.
    """

    text: torch.Tensor
    guidance: torch.Tensor | None
    image: torch.Tensor | None = None
    labels: torch.Tensor | None = None


def encode_text(pipeline: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Embeddings (N, tokens, width) of the prompts, each cut at the tokenizer's limit."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask = (
        tokens.attention_mask.to(encoder.device)
        if getattr(encoder.config, "use_attention_mask", False)
        else None
    )
    embeddings: torch.Tensor = encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]
    return embeddings


def conditions(
    pipeline: Any, prompts: Sequence[str], negative_prompts: Sequence[str], guidance: Sequence[float]
) -> Conditions:
    """Text and guidance of a batch; a guidance scale of 1 or less means no unconditional half."""
    text = encode_text(pipeline, prompts)
    if guidance[0] <= 1:
        return Conditions(text, None)
    scale = torch.tensor(guidance, dtype=torch.float32, device=text.device).view(-1, 1, 1, 1)
    return Conditions(torch.cat([encode_text(pipeline, negative_prompts), text]), scale)


def denoise(
    unet: Any,
    scheduler: Any,
    *,
    timesteps: torch.Tensor,
    latents: torch.Tensor,
    given: Conditions,
    generators: list[torch.Generator],
    before_step: Callable[[], None],
) -> torch.Tensor:
    """Latents (N, 4, H, W) float32 after these `timesteps` of `scheduler`, from `latents` noisy as it has them.

    `before_step` is called before every UNet call; samplers that draw noise take it from `generators`, one a
    row. Latents stay float32, whatever the UNet computes in. Classifier-free guidance: Ho & Salimans 2022.
    """
    takes = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in takes else {}
    for timestep in timesteps:
        before_step()
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = _predict(unet, model_input, timestep, given)
        latents = scheduler.step(prediction, timestep, latents, **extra, return_dict=False)[0]
    return latents


def _predict(unet: Any, latents: torch.Tensor, timestep: torch.Tensor, given: Conditions) -> torch.Tensor:
    """The UNet's prediction (N, 4, H, W) float32, guided if `given` asks for it."""
    if given.image is not None:
        latents = torch.cat([latents, given.image], dim=1)
    labels = given.labels
    if given.guidance is not None:
        latents = torch.cat([latents, latents])
        labels = None if labels is None else torch.cat([labels, labels])
    prediction: torch.Tensor = unet(
        latents.to(unet.dtype),
        timestep,
        encoder_hidden_states=given.text,
        class_labels=labels,
        return_dict=False,
    )[0].float()
    if given.guidance is None:
        return prediction
    unguided, guided = prediction.chunk(2)
    mixed: torch.Tensor = unguided + given.guidance * (guided - unguided)
    return mixed
