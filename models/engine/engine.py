"""The inference engine: continuous batching on a model's UNet, then VAE decoding into pictures."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from models.engine.continuous_batching import flow
from models.engine.denoising_request import EngineRequest
from models.engine.denoising_slots import Finished, LatentShape, UNetBatch
from models.engine.prompt_cache import AT_ONCE, Embeddings
from models.engine.rendered_image import Picture
from models.engine.sampler_matrices import SamplerMatrices, SamplerMatricesCache
from models.engine.throughput_probe import try_rows
from models.engine.vae_decode import Decoder, Development
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.cuda_graphs_and_streams import on, side_stream
from models.runtime.device import Device, memory_errors
from models.runtime.padding_and_noise import seeded


class Request(Protocol):
    """What every request has; a `guidance_scale` of 1 or less is rendered without guidance."""

    @property
    def prompt(self) -> str: ...
    @property
    def negative_prompt(self) -> str: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def seed(self) -> int: ...


R = TypeVar("R", bound=Request)

BUNDLE = 16
"""Maximum number of images per VAE decode: more are no faster, and images that wait for a decode are lost at a stop."""

IN_THE_BATH = 2
"""Decodes in flight while the UNet runs; at more, the engine waits for the oldest one, to bound memory use."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """Initial state of an image, with the fields of `EngineRequest`."""

    matrices: SamplerMatrices
    latents: torch.Tensor
    beside: torch.Tensor | None = None
    label: int = 0


Begin = Callable[[R, torch.Generator], Beginning]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A decoded picture and the number of its request."""

    number: int
    picture: Picture


@dataclass(frozen=True, eq=False)
class _Bundle:
    """Finished images that are decoded together."""

    numbers: Sequence[int]
    development: Development

    def drawn(self) -> list[Drawn]:
        pictures = self.development.pictures()
        return [Drawn(number, picture) for number, picture in zip(self.numbers, pictures, strict=True)]


class Engine:
    """Run the UNet, text encoder and VAE of a diffusers pipeline. Not thread-safe.

    On one device and for one value of `rows`, a picture depends on its request alone.
    """

    def __init__(self, pipeline: Any, device: Device, compile_options: CompileOptions = PLAIN) -> None:
        self.embeddings = Embeddings(pipeline.tokenizer, pipeline.text_encoder)
        self.matrices_cache = SamplerMatricesCache(dict(pipeline.scheduler.config))
        self._pipeline, self._device, self._compile_options = pipeline, device, compile_options
        compile_options.arrange(pipeline.unet, orders_norms=True)
        compile_options.arrange(pipeline.vae)
        self._decoder = Decoder(pipeline.vae, device.dtype)
        self._beside = side_stream(torch.device(device.name))
        self._batch: UNetBatch | None = None

    def draw(
        self,
        requests: Iterator[R],
        begin: Begin[R],
        shape: LatentShape,
        rows: int,
        on_call: Callable[[int], None],
        whole_every: int = 1,
        decoder: Decoder | None = None,
        compile_options: CompileOptions | None = None,
    ) -> Iterator[list[Drawn]]:
        """Yield pictures in lists, in the order in which they finish; up to `rows` images with guidance run at a time.

        Requests are taken when there is room for them (an image with guidance needs two rows of the UNet batch, one
        without guidance one), and are started in that order, each with a generator seeded by its seed. `on_call(i)` is
        called before the i-th UNet call. Of an image's calls, the first and then every `whole_every`-th compute the
        whole UNet (`models.engine.unet_forward_with_reuse`). A `decoder` replaces the VAE's decoder. `compile_options`
        may enable less than the engine's own. Exceptions of the callbacks propagate. Raises OutOfMemoryError if the
        device runs out of memory.
        """
        if rows < 1:
            raise ValueError(f"a batch needs at least one row, not {rows}")
        decoder = decoder or self._decoder
        batch = self._ready(shape, rows, whole_every, decoder, compile_options or self._compile_options)
        drawn = self._drawn(batch, self._engine_requests(requests, begin, batch), rows, on_call, decoder)
        try:
            while some := self._next(drawn):
                yield some
        finally:
            drawn.close()

    def try_rows(self, shape: LatentShape, rows: int) -> float:
        """Measure image steps per second with `models.engine.throughput_probe`; frees the current batch first."""
        self._batch = None
        try:
            return try_rows(self._pipeline, self._device, shape, self.embeddings.shape, rows)
        finally:
            self._device.give_back()

    @torch.inference_mode()
    def _next(self, drawn: Iterator[list[Drawn]]) -> list[Drawn] | None:
        with memory_errors(self._device):
            return next(drawn, None)

    def _drawn(
        self,
        batch: UNetBatch,
        engine_requests: Iterator[EngineRequest],
        rows: int,
        on_call: Callable[[int], None],
        decoder: Decoder,
    ) -> Generator[list[Drawn], None, None]:
        size, waiting = _bundle_size(rows), list[Finished]()
        bundles: deque[_Bundle] = deque()
        for finished in flow(batch, engine_requests, on_call):
            waiting += finished
            while len(waiting) >= size:
                bundles.append(self._develop(decoder, waiting[:size], size, batch.compile_options))
                del waiting[:size]
            while bundles and (len(bundles) > IN_THE_BATH or bundles[0].development.is_done):
                yield bundles.popleft().drawn()
        if waiting:
            bundles.append(self._develop(decoder, waiting, size, batch.compile_options))
        while bundles:
            yield bundles.popleft().drawn()

    def _engine_requests(
        self, requests: Iterator[R], begin: Begin[R], batch: UNetBatch
    ) -> Iterator[EngineRequest]:
        """Yield engine requests while the batch has room; prompts are encoded a few requests at a time."""
        numbers = itertools.count()
        while some := list(itertools.islice(requests, min(AT_ONCE, max(1, batch.empty_rows // 2)))):
            guided = [request.guidance_scale > 1 for request in some]
            negative = [request.negative_prompt for request in itertools.compress(some, guided)]
            texts = self.embeddings.of([request.prompt for request in some] + negative)
            unguided = iter(texts[len(some) :])
            for request, is_guided, text in zip(some, guided, texts, strict=False):
                generator = seeded(request.seed)
                begun = begin(request, generator)
                yield EngineRequest(
                    number=next(numbers),
                    matrices=begun.matrices,
                    latents=begun.latents,
                    text=text,
                    unguided=next(unguided) if is_guided else None,
                    guidance=request.guidance_scale,
                    generator=generator,
                    beside=begun.beside,
                    label=begun.label,
                )

    def _develop(
        self, decoder: Decoder, finished: Sequence[Finished], size: int, compile_options: CompileOptions
    ) -> _Bundle:
        """Decode on a side stream, concurrently with the UNet's next calls where the device supports it."""
        latents = [image.latents for image in finished]
        with on(self._beside, latents):
            development = decoder.develop(latents, at_once=size, compile_options=compile_options)
        return _Bundle([image.number for image in finished], development)

    @torch.inference_mode()
    def _ready(
        self,
        shape: LatentShape,
        rows: int,
        whole_every: int,
        decoder: Decoder,
        compile_options: CompileOptions,
    ) -> UNetBatch:
        """Return the current batch if it fits, else a new one, and prepare the decoder ahead of the first pictures."""
        batch = self._batch
        wanted = 2 * rows, shape, whole_every, compile_options
        if batch is None or (batch.rows, batch.latents, batch.whole_every, batch.compile_options) != wanted:
            self._batch = None
            with memory_errors(self._device):
                batch = UNetBatch(
                    self._pipeline.unet,
                    2 * rows,
                    shape,
                    self.embeddings.shape,
                    whole_every=whole_every,
                    compile_options=compile_options,
                )
            self._batch = batch
        with memory_errors(self._device):
            decoder.prepare(shape, at_once=_bundle_size(rows), compile_options=compile_options)
        return batch


def _bundle_size(rows: int) -> int:
    return min(rows, BUNDLE)
