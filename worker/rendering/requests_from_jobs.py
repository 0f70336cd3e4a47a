"""Convert jobs to requests to the models."""

from typing import TYPE_CHECKING

from jobs.job_dataclasses import Job, Lane
from models.catalogue.card import Card
from worker.item import Inputs, Pixels

if TYPE_CHECKING:
    from models.diffusion.requests import ImageRequest
    from models.families.upscaler import UpscaleRequest


def image_request(job: Job, inputs: Inputs, lane: Lane) -> "ImageRequest":
    """Return the request to the lane's diffusion model."""
    from models.diffusion.requests import ImageRequest  # noqa: PLC0415 - imports torch, only needed to render

    return ImageRequest(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        width=lane.width,
        height=lane.height,
        steps=job.steps,
        guidance_scale=job.guidance_scale,
        sampler=job.sampler,
        seed=job.seed,
        image=inputs.image,
        mask=inputs.mask,
        depth=inputs.depth,
        strength=1.0 if job.strength is None else job.strength,
    )


def upscale_request(
    job: Job, pixels: Pixels, card: Card, *, steps: int, guidance_scale: float, sampler: str
) -> "UpscaleRequest":
    """Return the request to the upscaler of this card."""
    from models.families.upscaler import UpscaleRequest  # noqa: PLC0415 - imports torch, only needed to render

    return UpscaleRequest(
        pixels=pixels,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        noise_level=card.noise_level if job.noise_level is None else job.noise_level,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        seed=job.seed,
    )
