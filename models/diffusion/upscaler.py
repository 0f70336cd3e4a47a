"""Stable Diffusion's x4 upscaler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from models.diffusion.loader import load_pipeline
from models.diffusion.vae_encode import signed
from models.engine.denoising_slots import LatentShape
from models.engine.engine import Beginning, Engine
from models.engine.rendered_image import Picture
from models.engine.sampler_matrices import SamplerMatrices, noise_shares
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device
from models.runtime.memory_options import FULL, MemoryOptions
from models.runtime.padding_and_noise import check_seed, draw, moved
from models.store.resolve_checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class UpscaleRequest:
    """One picture to enlarge: `pixels` is (H, W, 3) uint8 RGB; `seed` is 0..2**64-1.

    `noise_level`, 0 up to the checkpoint's `max_noise_level` (350), is the step of the noise schedule whose noise is
    added to the picture before it is enlarged: higher levels invent more detail.
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
    """A loaded upscaler. Not thread-safe."""

    checkpoint: Checkpoint
    device: Device
    _pipeline: Any
    _engine: Engine

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        device: Device,
        *,
        memory_options: MemoryOptions = FULL,
        compile_options: CompileOptions = PLAIN,
    ) -> Self:
        """Load `checkpoint` onto `device`. Raises CheckpointError or OutOfMemoryError."""
        pipeline = load_pipeline(
            checkpoint, device, "StableDiffusionUpscalePipeline", memory_options=memory_options
        )
        return cls.of(checkpoint, pipeline, device, compile_options=compile_options)

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, pipeline: Any, device: Device, *, compile_options: CompileOptions = PLAIN
    ) -> Self:
        """Wrap a diffusers pipeline that is on the device (`put_on`)."""
        return cls(checkpoint, device, pipeline, Engine(pipeline, device, compile_options))

    def upscale(
        self,
        requests: Sequence[UpscaleRequest],
        *,
        rows: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
        compile_options: CompileOptions | None = None,
    ) -> list[Picture]:
        """Return one picture of four times the height and width per request, in order.

        Batches, `on_step`, `compile_options` and errors are as in `StableDiffusion.stream`; raises ValueError, too, for
        pixels of another type or shape, or a noise level out of range.
        """
        if not requests:
            return []
        for request in requests:
            self._check(request, requests[0])
        height, width = requests[0].pixels.shape[:2]
        calls = [len(self._matrices(request)) for request in requests]
        order = sorted(range(len(requests)), key=lambda number: -calls[number])
        pictures: dict[int, Picture] = {}
        for some in self._engine.draw(
            (requests[number] for number in order),
            self._begin,
            self._shape(width, height),
            rows or self.device.rows,
            on_step,
            compile_options=compile_options,
        ):
            pictures |= {order[drawn.number]: drawn.picture for drawn in some}
        return [pictures[number] for number in range(len(requests))]

    def try_rows(self, width: int, height: int, rows: int) -> float:
        """Measure steps per second at `rows` small pictures of this size at a time. Raises OutOfMemoryError."""
        return self._engine.try_rows(self._shape(width, height), rows)

    def _shape(self, width: int, height: int) -> LatentShape:
        return self._pipeline.vae.config.latent_channels, height, width

    def _begin(self, request: UpscaleRequest, generator: torch.Generator) -> Beginning:
        pipeline, device = self._pipeline, self.device.name
        height, width = request.pixels.shape[:2]
        image_noise = moved(draw(generator, (1, 3, height, width)), device)
        noise = moved(draw(generator, (1, pipeline.vae.config.latent_channels, height, width)), device)
        of_picture, of_noise = noise_shares(pipeline.low_res_scheduler, torch.tensor([request.noise_level]))
        image = of_picture * signed(request.pixels, device) + of_noise * image_noise
        matrices = self._matrices(request)
        latents = (noise * matrices.of_noise_alone)[0]
        return Beginning(matrices, latents, image[0], request.noise_level)

    def _matrices(self, request: UpscaleRequest) -> SamplerMatrices:
        return self._engine.matrices_cache.of(request.sampler, request.steps)

    def _check(self, request: UpscaleRequest, first: UpscaleRequest) -> None:
        pixels, highest = request.pixels, self._pipeline.config.max_noise_level
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        if pixels.shape != first.pixels.shape:
            raise ValueError(
                f"requests of one call must share their size, but have {first.pixels.shape} and {pixels.shape}"
            )
        if not 0 <= request.noise_level <= highest:
            raise ValueError(f"noise_level must be in 0..{highest}, not {request.noise_level}")
        check_seed(request.seed)
