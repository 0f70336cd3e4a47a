"""Stable Diffusion: pictures from a prompt, and from pictures, masks and depth maps beside it."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from models.diffusion.depth import DepthEstimator
from models.diffusion.initial_latents import start
from models.diffusion.loader import load_pipeline
from models.diffusion.modes import Mode, check_pictures, mode_of
from models.diffusion.requests import ImageRequest
from models.diffusion.tiny_decoder import SmallDecoder
from models.diffusion.vae_encode import paste
from models.engine.engine import Beginning, Drawn, Engine
from models.engine.picture import Picture
from models.engine.sampler_matrices import SamplerMatrices
from models.engine.unet_batch import LatentShape
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device, memory_errors
from models.runtime.fixed_batches import check_seed
from models.runtime.memory_options import FULL, MemoryOptions
from models.store.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """A loaded model. Not for several threads at once."""

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
        """Loads `checkpoint` onto `device`, `loras` mixed in. Raises CheckpointError or OutOfMemoryError."""
        pipeline = load_pipeline(
            checkpoint, device, "StableDiffusionPipeline", loras=loras, memory_options=memory_options
        )
        return cls.of(checkpoint, pipeline, device, compile_options=compile_options)

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, pipeline: Any, device: Device, *, compile_options: CompileOptions = PLAIN
    ) -> Self:
        """The model of a diffusers pipeline that was `put_on` the device. Raises as `load` does."""
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
        """One picture per request of one size, in order; otherwise as `stream`, the longest drawn first.

        Raises ValueError, before anything is drawn, where `stream` would.
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
        """Pictures as they are finished, some at a time, numbered by their requests' places from 0 on.

        `rows` images with guidance are drawn at once (default: the device's), or twice as many without, whatever
        their steps, samplers and guidance. A request is asked for when there is room for it. On one device and for one
        `rows`, a picture depends on its request alone. `on_step(i)` is called before the i-th UNet call, from 0 on;
        what it raises (InterruptedRender) comes out. With `whole_every` above 1, only one in so many of an image's
        calls computes the whole UNet: quicker, and another picture; so is one that a `decoder` makes.
        `compile_options` may be less than the model's own. Raises ValueError where sizes differ, for what the model
        doesn't take, and where strength leaves no step; OutOfMemoryError.
        """
        waiting = iter(requests)
        if (first := next(waiting, None)) is None:
            return
        asked: dict[int, ImageRequest] = {}
        for some in self._engine.draw(
            _noted(itertools.chain([first], waiting), asked),
            lambda request, generator: self._begin(request, first, generator),
            self._shape(first.width, first.height),
            rows or self.device.rows,
            on_step,
            whole_every,
            decoder.decoder if decoder else None,
            compile_options,
        ):
            yield [replace(drawn, picture=_kept(drawn.picture, asked.pop(drawn.number))) for drawn in some]

    def forget_prompts(self) -> None:
        """Encode prompts anew that were encoded already: what is kept of them may hide what an encoder depends on."""
        self._engine.embeddings.forget()

    def try_rows(self, width: int, height: int, rows: int) -> float:
        """Images' steps a second of `rows` images with guidance at once, tried; raises OutOfMemoryError."""
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
        """The request's mode and steps; ValueError if it can't be drawn, or not together with `first`."""
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


def _kept(picture: Picture, row: ImageRequest) -> Picture:
    """The picture with the pixels that its mask keeps."""
    if row.mask is None or row.image is None:
        return picture
    return replace(picture, pixels=paste(picture.pixels, row.image, row.mask))


def _noted(requests: Iterator[ImageRequest], asked: dict[int, ImageRequest]) -> Iterator[ImageRequest]:
    """The requests, each put down under its number when it is asked for."""
    for number, request in enumerate(requests):
        asked[number] = request
        yield request
