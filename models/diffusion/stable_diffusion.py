"""Stable Diffusion: render images from a prompt and, depending on the model, a picture, mask or depth map."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from models.diffusion.depth import DepthEstimator
from models.diffusion.loader import load_pipeline
from models.diffusion.modes import Mode, check_pictures, mode_of
from models.diffusion.prepare_latents import start
from models.diffusion.requests import ImageRequest
from models.diffusion.tiny_decoder import SmallDecoder
from models.diffusion.vae_encode import paste
from models.engine.denoising_slots import LatentShape
from models.engine.engine import Beginning, Drawn, Engine
from models.engine.rendered_image import Picture
from models.engine.sampler_matrices import SamplerMatrices
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device, memory_errors
from models.runtime.memory_options import FULL, MemoryOptions
from models.runtime.padding_and_noise import check_seed
from models.store.resolve_checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """A loaded model. Not thread-safe."""

    checkpoint: Checkpoint
    device: Device
    _pipeline: Any
    _engine: Engine
    _depth: DepthEstimator | None

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
            checkpoint, device, "StableDiffusionPipeline", loras=loras, memory_options=memory_options
        )
        return cls.of(checkpoint, pipeline, device, compile_options=compile_options)

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, pipeline: Any, device: Device, *, compile_options: CompileOptions = PLAIN
    ) -> Self:
        """Wrap a diffusers pipeline that is on the device (`put_on`). Raises as `load` does."""
        with memory_errors(device):
            engine = Engine(pipeline, device, compile_options)
            return cls(checkpoint, device, pipeline, engine, DepthEstimator.load(checkpoint, device))

    def render(
        self,
        requests: Sequence[ImageRequest],
        *,
        rows: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
        whole_every: int = 1,
        decoder: SmallDecoder | None = None,
        compile_options: CompileOptions | None = None,
    ) -> list[Picture]:
        """Return one picture per request, in order; those with the most UNet calls start first.

        The arguments are those of `stream`. All requests must have the same size. Raises ValueError before anything is
        rendered, where `stream` would raise it.
        """
        if not requests:
            return []
        calls = [len(self._checked(request, requests[0])[1]) for request in requests]
        order = sorted(range(len(requests)), key=lambda number: -calls[number])
        found: dict[int, Picture] = {}
        ordered = [requests[number] for number in order]
        for some in self.stream(
            ordered,
            rows=rows,
            on_step=on_step,
            whole_every=whole_every,
            decoder=decoder,
            compile_options=compile_options,
        ):
            found |= {order[drawn.number]: drawn.picture for drawn in some}
        return [found[number] for number in range(len(requests))]

    def stream(
        self,
        requests: Iterable[ImageRequest],
        *,
        rows: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
        whole_every: int = 1,
        decoder: SmallDecoder | None = None,
        compile_options: CompileOptions | None = None,
    ) -> Iterator[list[Drawn]]:
        """Yield pictures in lists as they are finished, numbered by the positions of their requests, starting at 0.

        Up to `rows` images with guidance are rendered at a time (default: the device's), or twice as many without, with
        any mix of steps, samplers and guidance. The next request is taken when there is room for it. On one device and
        for one value of `rows`, a picture depends on its request alone. `on_step(i)` is called before the i-th UNet
        call, starting at 0; its exceptions (InterruptedRender) propagate. With `whole_every` above 1, only every
        `whole_every`-th of an image's calls computes the whole UNet, which is faster and changes the picture; so does a
        `decoder`. `compile_options` may enable less than the model's own. Raises ValueError if sizes differ, the model
        doesn't support an input, or `strength` leaves no step; OutOfMemoryError.
        """
        waiting = iter(requests)
        if (first := next(waiting, None)) is None:
            return
        asked: dict[int, ImageRequest] = {}
        for some in self._engine.draw(
            _recorded(itertools.chain([first], waiting), asked),
            lambda request, generator: self._begin(request, first, generator),
            self._shape(first.width, first.height),
            rows or self.device.rows,
            on_step,
            whole_every,
            decoder.decoder if decoder else None,
            compile_options,
        ):
            yield [
                replace(drawn, picture=_with_mask_applied(drawn.picture, asked.pop(drawn.number)))
                for drawn in some
            ]

    def forget_prompts(self) -> None:
        """Clear the prompt cache, so that prompts are encoded again with the encoder's current state."""
        self._engine.embeddings.forget()

    def try_rows(self, width: int, height: int, rows: int) -> float:
        """Measure image steps per second at `rows` images with guidance. Raises OutOfMemoryError."""
        return self._engine.try_rows(self._shape(width, height), rows)

    def _shape(self, width: int, height: int) -> LatentShape:
        factor = self.checkpoint.card.vae_factor
        return self._pipeline.vae.config.latent_channels, height // factor, width // factor

    def _begin(self, request: ImageRequest, first: ImageRequest, generator: torch.Generator) -> Beginning:
        mode, matrices = self._checked(request, first)
        latents, beside = start(
            request,
            mode,
            vae=self._pipeline.vae,
            matrices=matrices,
            generator=generator,
            estimator=self._depth,
            device=self.device.name,
        )
        return Beginning(matrices, latents, beside)

    def _checked(self, request: ImageRequest, first: ImageRequest) -> tuple[Mode, SamplerMatrices]:
        """Return the request's mode and steps; ValueError if it can't be rendered, or not together with `first`."""
        check_pictures(request)
        self._check_size(request)
        if (request.width, request.height) != (first.width, first.height):
            raise ValueError(
                f"requests of one call must share their size, but have {first.width}x{first.height} "
                f"and {request.width}x{request.height}"
            )
        check_seed(request.seed)
        strength = None if request.image is None else request.strength
        matrices = self._engine.matrices_cache.of(request.sampler, request.steps, strength)
        return self._mode(request), matrices

    def _mode(self, request: ImageRequest) -> Mode:
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


def _with_mask_applied(picture: Picture, row: ImageRequest) -> Picture:
    """Return the picture with the pixels that the request's mask keeps restored."""
    if row.mask is None or row.image is None:
        return picture
    return replace(picture, pixels=paste(picture.pixels, row.image, row.mask))


def _recorded(requests: Iterator[ImageRequest], asked: dict[int, ImageRequest]) -> Iterator[ImageRequest]:
    """Yield the requests, storing each in `asked` under its number."""
    for number, request in enumerate(requests):
        asked[number] = request
        yield request
