"""The interface of a model family: all that distinguishes one kind of diffusion model from another."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from typing import Any, ClassVar, Generic, Self

import torch

from models.catalogue.card import Card
from models.diffusion.loader import check_unet, load_pipeline
from models.diffusion.tiny_decoder import SmallDecoder
from models.engine.denoising_slots import LatentShape
from models.engine.engine import Engine
from models.engine.model_family_protocol import Beginning, R
from models.engine.networks import Networks
from models.engine.rendered_image import RenderedImage
from models.engine.sampler_matrices import SamplerMatrices
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device, memory_errors
from models.runtime.memory_options import FULL, MemoryOptions
from models.store.resolve_checkpoint import Checkpoint


class ModelFamily(ABC, Generic[R]):
    """A loaded model. Not thread-safe.

    A subclass serves one kind of model. It says which checkpoints it serves and which class of diffusers loads them,
    which requests the model can render, and how a request begins and ends; the engine does what lies between. Add it to
    `models.families.registry`.
    """

    pipeline_class: ClassVar[str]
    """Name of the class of diffusers that loads the checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, pipeline: Any, device: Device, compile_options: CompileOptions = PLAIN
    ) -> None:
        """Take a diffusers pipeline that is on the device (`models.diffusion.loader.put_on`)."""
        self.checkpoint, self.device, self.pipeline = checkpoint, device, pipeline
        with memory_errors(device):
            self.networks = self.prepared(pipeline, device, compile_options)

    @classmethod
    @abstractmethod
    def serves(cls, card: Card, pipeline_class: str | None) -> bool:
        """Return whether this family serves the card's model.

        `pipeline_class` is the class that the checkpoint's `model_index.json` names, or None if that isn't known.
        """

    @abstractmethod
    def latent_shape(self, width: int, height: int) -> LatentShape:
        """Return the shape (C, h, w) of the latents of a request of this size in pixels."""

    @abstractmethod
    def check(self, request: R) -> LatentShape:
        """Return the shape of the request's latents; ValueError if the model can't render it."""

    @abstractmethod
    def matrices(self, request: R) -> SamplerMatrices:
        """Return the sampler's steps for the request; ValueError if there are none."""

    @abstractmethod
    def begin(self, request: R, generator: torch.Generator) -> Beginning:
        """Return the request's initial state; random numbers are drawn in the order of diffusers' own pipeline."""

    @classmethod
    def prepared(cls, pipeline: Any, device: Device, compile_options: CompileOptions) -> Networks:
        """Return the networks for the engine; a family may bring other text encoders and another forward pass."""
        return Networks(pipeline, device, compile_options)

    @classmethod
    def check_denoiser(cls, checkpoint: Checkpoint, pipeline: Any) -> None:
        """Raise CheckpointError if the network that denoises isn't of the family's kind."""
        check_unet(checkpoint, pipeline)

    def finish(self, request: R, image: RenderedImage) -> RenderedImage:  # noqa: ARG002 - for subclasses
        """Return the image to hand out: the decoded one, unless a family changes it."""
        return image

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        device: Device,
        *,
        loras: Sequence[tuple[Checkpoint, float]] = (),
        memory_options: MemoryOptions = FULL,
        compile_options: CompileOptions = PLAIN,
    ) -> Self:
        """Load `checkpoint` onto `device` with `loras` merged in. Raises CheckpointError or OutOfMemoryError."""
        pipeline = load_pipeline(
            checkpoint,
            device,
            cls.pipeline_class,
            loras=loras,
            memory_options=memory_options,
            check_denoiser=cls.check_denoiser,
        )
        return cls(checkpoint, pipeline, device, compile_options)

    def engine(
        self,
        shape: LatentShape,
        *,
        rows: int | None = None,
        cache_interval: int = 1,
        decoder: SmallDecoder | None = None,
        compile_options: CompileOptions | None = None,
    ) -> Engine[R]:
        """Return an engine for latents of this shape; `close` it to drop what is in progress.

        Up to `rows` images with guidance are rendered at a time (default: the device's), or twice as many without, with
        any mix of steps, samplers and guidance. With a `cache_interval` above 1 (DeepCache), only one in so many calls
        computes the whole UNet, which is faster and changes the image; so does a `decoder`. `compile_options` may
        enable less than the model's own. Raises OutOfMemoryError.
        """
        return Engine(
            self.networks,
            self,
            shape,
            self.device.rows if rows is None else rows,
            cache_interval=cache_interval,
            decoder=decoder.decoder if decoder else None,
            compile_options=compile_options,
        )

    def render(
        self,
        requests: Sequence[R],
        *,
        rows: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
        cache_interval: int = 1,
        decoder: SmallDecoder | None = None,
        compile_options: CompileOptions | None = None,
    ) -> list[RenderedImage]:
        """Return one image per request, in order; those with the most UNet calls start first.

        The other arguments are those of `engine`. `on_step(n)` is called before the n-th step, starting at 0; its
        exceptions (InterruptedRender) propagate. Raises ValueError, before anything is rendered, if sizes differ or the
        model can't render a request; OutOfMemoryError.
        """
        if not requests:
            return []
        shapes = [self.check(request) for request in requests]
        calls = [len(self.matrices(request)) for request in requests]
        engine = self.engine(
            shapes[0],
            rows=rows,
            cache_interval=cache_interval,
            decoder=decoder,
            compile_options=compile_options,
        )
        with closing(engine):
            for number in sorted(range(len(requests)), key=lambda number: -calls[number]):
                engine.add(number, requests[number])
            images: dict[Hashable, RenderedImage] = {}
            for step in itertools.count():
                if engine.is_empty:
                    break
                on_step(step)
                images |= {rendered.key: rendered.image for rendered in engine.step()}
        return [images[number] for number in range(len(requests))]

    def forget_prompts(self) -> None:
        """Clear the prompt cache, so that prompts are encoded again with the encoder's current state."""
        self.networks.embeddings.forget()

    def measure_throughput(self, width: int, height: int, rows: int) -> float:
        """Measure image steps per second at `rows` images with guidance. Raises OutOfMemoryError."""
        return self.networks.measure_throughput(self.latent_shape(width, height), rows)
