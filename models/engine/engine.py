"""A model's UNet kept full: images come as their rows come free, and leave as pictures."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from models.engine.continuous_batching import flow
from models.engine.picture import Picture
from models.engine.prompt_cache import AT_ONCE, Embeddings
from models.engine.request import EngineRequest
from models.engine.sampler_matrices import SamplerMatrices, SamplerMatricesCache
from models.engine.throughput_probe import try_rows
from models.engine.unet_batch import Finished, LatentShape, UNetBatch
from models.engine.vae_decode import Decoder, Development
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.cuda_graphs import on, side_stream
from models.runtime.device import Device, memory_errors
from models.runtime.fixed_batches import seeded


class Request(Protocol):
    """What every request has; a `guidance_scale` of 1 or less is drawn without guidance."""

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
"""Images at most that are decoded together: a VAE is no faster with more, and those that wait are lost at a stop."""

IN_THE_BATH = 2
"""Bundles of pictures that are decoded while the UNet goes on; more are waited for, lest they fill the memory."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """Where an image's calls begin, as `EngineRequest` has it."""

    matrices: SamplerMatrices
    latents: torch.Tensor
    beside: torch.Tensor | None = None
    label: int = 0


Begin = Callable[[R, torch.Generator], Beginning]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture, with the number of its ticket."""

    number: int
    picture: Picture


@dataclass(frozen=True, eq=False)
class _Bundle:
    """Finished images that are being decoded together."""

    numbers: Sequence[int]
    development: Development

    def drawn(self) -> list[Drawn]:
        pictures = self.development.pictures()
        return [Drawn(number, picture) for number, picture in zip(self.numbers, pictures, strict=True)]


class Engine:
    """The UNet, text encoder and VAE of a diffusers pipeline. Not for several threads at once.

    On one device and for one `rows`, a picture depends on its ticket alone.
    """

    def __init__(self, pipeline: Any, device: Device, compile_options: CompileOptions = PLAIN) -> None:
        self.embeddings = Embeddings(pipeline.tokenizer, pipeline.text_encoder)
        self.matrices_cache = SamplerMatricesCache(dict(pipeline.scheduler.config))
        self._pipeline, self._device, self._speedup = pipeline, device, compile_options
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
        """Pictures in the order in which they are finished, some at a time; `rows` of them with guidance go at once.

        Requests are asked for when there is room for them, or for one of their two rows, and begun in that order, each
        with the generator of its seed. `on_call(i)` is called before the i-th UNet call. Of an image's calls, the
        first and then one in `whole_every` compute the whole UNet (`models.engine.unet_forward`). A
        `decoder` makes the pictures in the VAE's stead. `compile_options` may be less than the engine's own. What one
        of these raises comes out, and OutOfMemoryError if the device has no memory left.
        """
        if rows < 1:
            raise ValueError(f"a batch needs at least one row, not {rows}")
        decoder = decoder or self._decoder
        batch = self._ready(shape, rows, whole_every, decoder, compile_options or self._speedup)
        drawn = self._drawn(batch, self._tickets(requests, begin, batch), rows, on_call, decoder)
        try:
            while some := self._next(drawn):
                yield some
        finally:
            drawn.close()

    def try_rows(self, shape: LatentShape, rows: int) -> float:
        """Images' steps a second, as `models.engine.throughput_probe` has it; the batch makes room for it."""
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

    def _tickets(self, requests: Iterator[R], begin: Begin[R], batch: UNetBatch) -> Iterator[EngineRequest]:
        """Tickets of as many requests as the batch has room for, some at a time for their prompts' sake."""
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
        """Decode them beside the UNet's next calls, where the device can do both."""
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
        """The batch as it was, if it fits; and the decoder gets ready, before the first pictures wait for it."""
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
