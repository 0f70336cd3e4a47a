"""Stable Diffusion's x4 upscaler."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.catalogue.card import Card
from models.diffusion.vae_encode import signed
from models.engine.denoising_slots import LatentShape
from models.engine.model_family_protocol import Beginning
from models.engine.sampler_matrices import SamplerMatrices, noise_shares
from models.families.family import ModelFamily
from models.runtime.padding_and_noise import check_seed, draw, moved


@dataclass(frozen=True, kw_only=True, eq=False)
class UpscaleRequest:
    """One image to enlarge: `pixels` is (H, W, 3) uint8 RGB; `seed` is 0..2**64-1.

    `noise_level`, 0 up to the checkpoint's `max_noise_level` (350), is the step of the noise schedule whose noise is
    added to the image before it is enlarged: higher levels invent more detail.
    """

    pixels: npt.NDArray[np.uint8]
    prompt: str
    negative_prompt: str = ""
    noise_level: int = 20
    steps: int
    guidance_scale: float
    sampler: str
    seed: int


class Upscaler(ModelFamily[UpscaleRequest]):
    """A model that enlarges images to four times their height and width, guided by a prompt."""

    pipeline_class = "StableDiffusionUpscalePipeline"

    @classmethod
    def serves(cls, card: Card, pipeline_class: str | None) -> bool:  # noqa: ARG003
        """Serve every upscaler that no other family serves: loading checks the networks."""
        return card.family == "upscaler"

    def latent_shape(self, width: int, height: int) -> LatentShape:
        """Return the shape of the latents for small images of this size: the UNet works at their size."""
        return self.pipeline.vae.config.latent_channels, height, width

    def check(self, request: UpscaleRequest) -> LatentShape:
        """Check the type of the pixels, the noise level and the seed."""
        pixels, highest = request.pixels, self.pipeline.config.max_noise_level
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        if not 0 <= request.noise_level <= highest:
            raise ValueError(f"noise_level must be in 0..{highest}, not {request.noise_level}")
        check_seed(request.seed)
        height, width = pixels.shape[:2]
        return self.latent_shape(width, height)

    def matrices(self, request: UpscaleRequest) -> SamplerMatrices:
        """Return the sampler's steps."""
        return self.networks.matrices_cache.of(request.sampler, request.steps)

    def begin(self, request: UpscaleRequest, generator: torch.Generator) -> Beginning:
        """Return latents of noise and, beside them, the small image with noise of the request's level added."""
        pipeline, device = self.pipeline, self.device.name
        height, width = request.pixels.shape[:2]
        image_noise = moved(draw(generator, (1, 3, height, width)), device)
        noise = moved(draw(generator, (1, pipeline.vae.config.latent_channels, height, width)), device)
        of_image, of_noise = noise_shares(pipeline.low_res_scheduler, torch.tensor([request.noise_level]))
        image = of_image * signed(request.pixels, device) + of_noise * image_noise
        matrices = self.matrices(request)
        latents = (noise * matrices.of_noise_alone)[0]
        return Beginning(matrices, latents, image[0], request.noise_level)
