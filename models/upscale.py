"""Stable Diffusion's x4 upscaler."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from models.checkpoint import Checkpoint
from models.chunks import check_alike, draw, padded, seeded
from models.decode import decode
from models.denoise import conditions, denoise
from models.device import Device, memory_errors
from models.encode import signed
from models.loading import load_pipeline
from models.picture import Picture
from models.samplers import make_scheduler
from models.saving import FULL, Saving


@dataclass(frozen=True, kw_only=True, eq=False)
class UpscaleRequest:
    """One picture to enlarge: `pixels` is (H, W, 3) uint8 RGB; `seed` is 0..2**64-1.

    `noise_level`, 0 up to the checkpoint's `max_noise_level` (350), is the step of the noise schedule whose
    noise is put on the picture before it is enlarged: more invents more.
    """

    pixels: npt.NDArray[np.uint8]
    prompt: str
    negative_prompt: str = ""
    noise_level: int = 20
    steps: int
    guidance_scale: float
    sampler: str
    seed: int


@dataclass(frozen=True, eq=False)
class Upscaler:
    """A loaded upscaler. Not for several threads at once."""

    checkpoint: Checkpoint
    device: Device
    _pipeline: Any

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: Device, *, saving: Saving = FULL) -> Self:
        """Loads `checkpoint` onto `device`. Raises CheckpointError or OutOfMemoryError."""
        pipeline = load_pipeline(checkpoint, device, "StableDiffusionUpscalePipeline", saving=saving)
        return cls(checkpoint, device, pipeline)

    def upscale(
        self,
        requests: Sequence[UpscaleRequest],
        *,
        rows: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> list[Picture]:
        """One picture of four times the height and width per request, in order.

        Batches, `on_step` and errors are as in `StableDiffusion.render`; ValueError too for pixels of
        another kind or a noise level out of range, and when requests differ in noise level.
        """
        if not requests:
            return []
        for request in requests:
            self._check(request)
        check_alike(requests, _shared)
        calls = itertools.count()
        pictures: list[Picture] = []
        with torch.inference_mode(), memory_errors(self.device):
            for chunk in padded(requests, rows or self.device.rows):
                pictures += self._upscale_chunk(chunk.rows, lambda: on_step(next(calls)))[: chunk.real]
        return pictures

    def _upscale_chunk(
        self, rows: Sequence[UpscaleRequest], before_step: Callable[[], None]
    ) -> list[Picture]:
        first, pipeline = rows[0], self._pipeline
        given = conditions(
            pipeline,
            [row.prompt for row in rows],
            [row.negative_prompt for row in rows],
            [row.guidance_scale for row in rows],
        )
        generators = [seeded(row.seed) for row in rows]
        height, width = first.pixels.shape[:2]
        image_noise = draw(generators, (3, height, width)).to(self.device.name)
        noise = draw(generators, (pipeline.vae.config.latent_channels, height, width)).to(self.device.name)
        pictures = signed([row.pixels for row in rows], self.device.name)
        labels = torch.full((len(rows),), first.noise_level, device=self.device.name)
        image = pipeline.low_res_scheduler.add_noise(pictures, image_noise, labels)
        scheduler = make_scheduler(first.sampler, pipeline.scheduler.config, first.steps)
        beside = replace(given, image=image, labels=labels)
        latents = denoise(
            pipeline.unet,
            scheduler,
            timesteps=scheduler.timesteps,
            latents=noise * scheduler.init_noise_sigma,
            given=beside,
            generators=generators,
            before_step=before_step,
        )
        return decode(pipeline.vae, latents)

    def _check(self, request: UpscaleRequest) -> None:
        pixels, highest = request.pixels, self._pipeline.config.max_noise_level
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        if not 0 <= request.noise_level <= highest:
            raise ValueError(f"noise_level must be in 0..{highest}, not {request.noise_level}")


def _shared(request: UpscaleRequest) -> dict[str, object]:
    return {
        "size": request.pixels.shape,
        "noise_level": request.noise_level,
        "steps": request.steps,
        "guidance above 1": request.guidance_scale > 1,
        "sampler": request.sampler,
    }
