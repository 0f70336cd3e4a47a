"""Stable Diffusion: pictures from a prompt, and from pictures, masks and depth maps beside it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from models.checkpoint import Checkpoint
from models.chunks import check_alike, draw, padded, seeded
from models.decode import decode
from models.denoise import conditions, denoise
from models.device import Device, memory_errors
from models.loading import load_pipeline
from models.picture import Picture
from models.samplers import make_scheduler
from models.saving import FULL, Saving


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRequest:
    """One image to draw. Sizes are pixels, multiples of the model's VAE factor; `seed` is 0..2**64-1.

    A `guidance_scale` of 1 or less leaves the negative prompt unread and takes half the time. `image` is
    (height, width, 3) RGB, `mask` (height, width) from 0, keep, to 255, repaint, `depth` (height, width) of
    any finite scale, larger being nearer. `strength`, above 0 up to 1, is how far to go from `image`.
    """

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seed: int
    image: npt.NDArray[np.uint8] | None = None
    mask: npt.NDArray[np.uint8] | None = None
    depth: npt.NDArray[np.float32] | None = None
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """A loaded model. Not for several threads at once."""

    checkpoint: Checkpoint
    device: Device
    _pipeline: Any

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        device: Device,
        *,
        loras: Sequence[tuple[Checkpoint, float]] = (),
        saving: Saving = FULL,
    ) -> Self:
        """Loads `checkpoint` onto `device`, `loras` mixed in. Raises CheckpointError or OutOfMemoryError."""
        pipeline = load_pipeline(checkpoint, device, "StableDiffusionPipeline", loras=loras, saving=saving)
        return cls(checkpoint, device, pipeline)

    def render(
        self,
        requests: Sequence[ImageRequest],
        *,
        rows: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> list[Picture]:
        """One picture per request, in order, rendered in batches of exactly `rows` (default: the device's).

        On one device and for one `rows`, a picture depends on its request alone. `on_step(i)` is called
        before the i-th UNet call of this render, from 0 on; what it raises (InterruptedRender) comes out.
        Raises ValueError if the requests differ in size, steps, sampler or in whether guidance is above 1,
        OutOfMemoryError if the device has no memory left.
        """
        if not requests:
            return []
        check_alike(requests, _shared)
        self._check_size(requests[0])
        calls = itertools.count()
        pictures: list[Picture] = []
        with torch.inference_mode(), memory_errors(self.device):
            for chunk in padded(requests, rows or self.device.rows):
                pictures += self._render_chunk(chunk.rows, lambda: on_step(next(calls)))[: chunk.real]
        return pictures

    def _render_chunk(self, rows: Sequence[ImageRequest], before_step: Callable[[], None]) -> list[Picture]:
        first, pipeline, factor = rows[0], self._pipeline, self.checkpoint.card.vae_factor
        given = conditions(
            pipeline,
            [row.prompt for row in rows],
            [row.negative_prompt for row in rows],
            [row.guidance_scale for row in rows],
        )
        generators = [seeded(row.seed) for row in rows]
        channels = pipeline.unet.config.in_channels
        noise = draw(generators, (channels, first.height // factor, first.width // factor)).to(
            self.device.name
        )
        scheduler = make_scheduler(first.sampler, pipeline.scheduler.config, first.steps)
        latents = denoise(
            pipeline.unet, scheduler, noise=noise, given=given, generators=generators, before_step=before_step
        )
        return decode(pipeline.vae, latents)

    def _check_size(self, request: ImageRequest) -> None:
        factor = self.checkpoint.card.vae_factor
        if (
            request.width < factor
            or request.height < factor
            or request.width % factor
            or request.height % factor
        ):
            raise ValueError(
                f"width and height must be multiples of {factor}, not {request.width}x{request.height}"
            )


def _shared(request: ImageRequest) -> dict[str, object]:
    return {
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance above 1": request.guidance_scale > 1,
        "sampler": request.sampler,
    }
