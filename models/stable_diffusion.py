"""Stable Diffusion: pictures from a prompt, and from pictures, masks and depth maps beside it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from models.checkpoint import Checkpoint
from models.chunks import check_alike, padded, seeded
from models.decode import decode
from models.denoise import conditions, denoise
from models.depth import DepthEstimator
from models.device import Device, memory_errors
from models.encode import paste
from models.loading import load_pipeline
from models.modes import Mode, check_pictures, mode_of
from models.picture import Picture
from models.samplers import make_scheduler, steps_left
from models.saving import FULL, Saving
from models.starting import start

_PICTURES = ("image", "mask", "depth")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRequest:
    """One image to draw. Sizes are pixels, multiples of the model's VAE factor; `seed` is 0..2**64-1.

    A `guidance_scale` of 1 or less leaves the negative prompt unread and takes half the time. `image` is
    (height, width, 3) RGB, `mask` (height, width) from 0, keep, to 255, repaint, `depth` (height, width) of
    any finite scale, larger being nearer. `strength`, above 0 up to 1, is how far to go from `image`, which an
    inpainting model at 1 reads only outside the mask; without `image` it isn't read.
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
    _depth: DepthEstimator | None

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
        with memory_errors(device):
            return cls(checkpoint, device, pipeline, DepthEstimator.load(checkpoint, device))

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
        Raises ValueError if the requests differ in size, steps, sampler, strength, in which pictures they give or
        in whether guidance is above 1, if the model doesn't take those pictures, or if strength leaves no step;
        OutOfMemoryError if the device has no memory left.
        """
        if not requests:
            return []
        for request in requests:
            check_pictures(request)
        check_alike(requests, _shared)
        self._check_size(requests[0])
        mode = self._mode(requests[0])
        calls = itertools.count()
        pictures: list[Picture] = []
        with torch.inference_mode(), memory_errors(self.device):
            for chunk in padded(requests, rows or self.device.rows):
                pictures += self._render_chunk(chunk.rows, mode, lambda: on_step(next(calls)))[: chunk.real]
        return pictures

    def _render_chunk(
        self, rows: Sequence[ImageRequest], mode: Mode, before_step: Callable[[], None]
    ) -> list[Picture]:
        first, pipeline = rows[0], self._pipeline
        given = conditions(
            pipeline,
            [row.prompt for row in rows],
            [row.negative_prompt for row in rows],
            [row.guidance_scale for row in rows],
        )
        generators = [seeded(row.seed) for row in rows]
        scheduler = make_scheduler(first.sampler, pipeline.scheduler.config, first.steps)
        begun = start(
            rows,
            mode,
            vae=pipeline.vae,
            scheduler=scheduler,
            generators=generators,
            estimator=self._depth,
            device=self.device.name,
        )
        latents = denoise(
            pipeline.unet,
            scheduler,
            timesteps=begun.timesteps,
            latents=begun.latents,
            given=replace(given, image=begun.beside),
            generators=generators,
            before_step=before_step,
        )
        pictures = decode(pipeline.vae, latents)
        return [_kept(picture, row) for picture, row in zip(pictures, rows, strict=True)]

    def _mode(self, request: ImageRequest) -> Mode:
        if request.image is not None:
            steps_left(request.steps, request.strength)
        return mode_of(
            request,
            self._pipeline.unet.config.in_channels,
            f"the model {self.checkpoint.card.id!r}",
            has_depth_estimator=self._depth is not None,
        )

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


def _kept(picture: Picture, row: ImageRequest) -> Picture:
    """The picture with the pixels that its mask keeps."""
    if row.mask is None or row.image is None:
        return picture
    return replace(picture, pixels=paste(picture.pixels, row.image, row.mask))


def _shared(request: ImageRequest) -> dict[str, object]:
    return {
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance above 1": request.guidance_scale > 1,
        "sampler": request.sampler,
        "which pictures are given": [name for name in _PICTURES if getattr(request, name) is not None],
        "strength": request.strength if request.image is not None else None,
    }
