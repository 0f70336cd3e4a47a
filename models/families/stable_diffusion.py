"""Stable Diffusion 1 and 2: images from a prompt and, depending on the model, an image, mask or depth map."""

from dataclasses import replace
from typing import Any

import torch

from models.catalogue.card import Card
from models.diffusion.depth import DepthEstimator
from models.diffusion.prepare_latents import start
from models.diffusion.request_mode import Mode, check_images, mode_of
from models.diffusion.requests import ImageRequest
from models.diffusion.vae_encode import paste
from models.engine.denoising_slots import LatentShape
from models.engine.model_family_protocol import Beginning
from models.engine.rendered_image import RenderedImage
from models.engine.sampler_matrices import SamplerMatrices
from models.families.family import ModelFamily
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device, memory_errors
from models.runtime.padding_and_noise import check_seed
from models.store.resolve_checkpoint import Checkpoint


class StableDiffusion(ModelFamily[ImageRequest]):
    """A model of Stable Diffusion 1 or 2, whose UNet takes latents alone, or a mask or a depth map beside them."""

    pipeline_class = "StableDiffusionPipeline"

    def __init__(
        self, checkpoint: Checkpoint, pipeline: Any, device: Device, compile_options: CompileOptions = PLAIN
    ) -> None:
        """Take a pipeline, and load the depth estimator of the checkpoint if it has one."""
        super().__init__(checkpoint, pipeline, device, compile_options)
        with memory_errors(device):
            self._depth_estimator = DepthEstimator.load(checkpoint, device)

    @classmethod
    def serves(cls, card: Card, pipeline_class: str | None) -> bool:  # noqa: ARG003
        """Serve every text-to-image model that no other family serves: loading checks the networks."""
        return card.family == "text2image"

    def latent_shape(self, width: int, height: int) -> LatentShape:
        """Return the shape of the VAE's latents."""
        factor = self.checkpoint.card.vae_factor
        return self.pipeline.vae.config.latent_channels, height // factor, width // factor

    def check(self, request: ImageRequest) -> LatentShape:
        """Check sizes, images and mode; ValueError also for a seed out of range."""
        check_images(request)
        self._check_size(request)
        check_seed(request.seed)
        self._mode(request)
        return self.latent_shape(request.width, request.height)

    def matrices(self, request: ImageRequest) -> SamplerMatrices:
        """Return the sampler's steps: fewer than `steps` where an image is changed at a `strength` below 1."""
        strength = None if request.image is None else request.strength
        return self.networks.matrices_cache.of(request.sampler, request.steps, strength)

    def begin(self, request: ImageRequest, generator: torch.Generator) -> Beginning:
        """Return latents of noise or of the noised image, and the mask or depth map beside them."""
        matrices = self.matrices(request)
        latents, beside = start(
            request,
            self._mode(request),
            vae=self.pipeline.vae,
            matrices=matrices,
            generator=generator,
            estimator=self._depth_estimator,
            device=self.device.name,
        )
        return Beginning(matrices, latents, beside)

    def finish(self, request: ImageRequest, image: RenderedImage) -> RenderedImage:
        """Restore the pixels that the request's mask keeps."""
        if request.mask is None or request.image is None:
            return image
        return replace(image, pixels=paste(image.pixels, request.image, request.mask))

    def _mode(self, request: ImageRequest) -> Mode:
        return mode_of(
            request,
            self.pipeline.unet.config.in_channels,
            f"the model {self.checkpoint.card.id!r}",
            has_depth_estimator=self._depth_estimator is not None,
        )

    def _check_size(self, request: ImageRequest) -> None:
        factor = self.checkpoint.card.vae_factor
        width, height = request.width, request.height
        if width < factor or height < factor or width % factor or height % factor:
            raise ValueError(f"width and height must be multiples of {factor}, not {width}x{height}")
