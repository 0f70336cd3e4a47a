"""The inference engine: continuous batching on a model's UNet, then VAE decoding into images."""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Generic

import torch

from models.engine.denoising_request import Conditions, EngineRequest
from models.engine.denoising_slots import Finished, LatentShape
from models.engine.model_family_protocol import R, RequestHandler
from models.engine.networks import Networks
from models.engine.prompt_cache import AT_ONCE
from models.engine.rendered_image import RenderedImage
from models.engine.vae_decode import Decoder, PendingDecode
from models.runtime.compile_options import CompileOptions
from models.runtime.cuda_graphs_and_streams import on
from models.runtime.device import memory_errors
from models.runtime.padding_and_noise import seeded

DECODED_TOGETHER = 16
"""Maximum number of images per VAE decode: more are no faster, and images that wait for a decode are lost at a stop."""

DECODES_IN_FLIGHT = 2
"""Decodes in flight while the UNet runs; at more, the engine waits for the oldest one, to bound memory use."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """A decoded image and the key of its request."""

    key: Hashable
    image: RenderedImage


@dataclass(frozen=True, eq=False)
class _Decode:
    """Finished images that are decoded together."""

    keys: Sequence[Hashable]
    pending: PendingDecode


class Engine(Generic[R]):
    """Renders requests of one size, as many at a time as the batch has rows for. Not thread-safe.

    `add` requests while it `has_room`, and call `step` until it `is_empty`. Requests are started in the order in which
    they were added, each with a generator seeded by its seed. On one device and for one number of rows, an image
    depends on its request alone. When `step` raises, all requests in progress are dropped; `close` drops them, too.
    """

    def __init__(
        self,
        networks: Networks,
        handler: RequestHandler[R],
        shape: LatentShape,
        rows: int,
        *,
        cache_interval: int = 1,
        decoder: Decoder | None = None,
        compile_options: CompileOptions | None = None,
    ) -> None:
        """Render up to `rows` images with guidance at a time, or twice as many without.

        Of an image's UNet calls, the first and then every `cache_interval`-th compute the whole UNet
        (`models.engine.unet_forward_with_reuse`). A `decoder` replaces the VAE's decoder. `compile_options` may enable
        less than the networks' own. Raises OutOfMemoryError.
        """
        if rows < 1:
            raise ValueError(f"a batch needs at least one row, not {rows}")
        self._networks, self._handler, self._shape = networks, handler, shape
        self._decoder = decoder or networks.decoder
        self._compile_options = compile_options or networks.compile_options
        self._decoded_together = min(rows, DECODED_TOGETHER)
        self._batch = networks.batch(shape, 2 * rows, cache_interval, self._compile_options)
        self._requests: dict[Hashable, R] = {}
        self._added: deque[Hashable] = deque()
        self._begun: deque[EngineRequest] = deque()
        self._finished: list[Finished] = []
        self._decodes: deque[_Decode] = deque()
        with torch.inference_mode(), memory_errors(self._networks.device):
            self._decoder.prepare(
                shape, at_once=self._decoded_together, compile_options=self._compile_options
            )

    @property
    def is_empty(self) -> bool:
        """Whether no request is in progress."""
        return not self._requests

    @property
    def is_denoising(self) -> bool:
        """Whether any image has steps left; else the images in progress are being decoded."""
        return bool(self._added or self._begun) or not self._batch.is_empty

    def has_room(self) -> bool:
        """Return whether a further request could begin at the next step."""
        return self._batch.is_open and self._batch.empty_rows > self._waiting_rows()

    def add(self, key: Hashable, request: R) -> None:
        """Take a request, whose image will have this key.

        Raises ValueError if the model can't render it, or not in one batch with requests of the engine's size.
        """
        if (shape := self._handler.check(request)) != self._shape:
            raise ValueError(
                f"requests of one call must share their size, but have latents of {self._shape} and {shape}"
            )
        self._requests[key] = request
        self._added.append(key)

    def step(self) -> list[Rendered]:
        """Run one UNet call, and return the images that are finished (at most steps there are none).

        With no image left to denoise, waits for the images that are being decoded. Raises OutOfMemoryError, and what
        beginning a request raises.
        """
        try:
            with torch.inference_mode(), memory_errors(self._networks.device):
                return self._step()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop all requests in progress."""
        for collection in (self._requests, self._added, self._begun, self._finished, self._decodes):
            collection.clear()
        self._batch.clear()

    def _step(self) -> list[Rendered]:
        self._admit()
        if self._batch.is_empty:
            self._decode(self._finished)
            return self._rendered() if self._decodes else []
        self._finished += self._batch.call()
        while len(self._finished) >= self._decoded_together:
            self._decode(self._finished[: self._decoded_together])
        return self._decoded()

    def _decoded(self) -> list[Rendered]:
        rendered: list[Rendered] = []
        while self._decodes and (len(self._decodes) > DECODES_IN_FLIGHT or self._decodes[0].pending.is_done):
            rendered += self._rendered()
        return rendered

    def _rendered(self) -> list[Rendered]:
        """Wait for the oldest decode and return its images."""
        decode = self._decodes.popleft()
        return [
            Rendered(key, self._handler.finish(self._requests.pop(key), image))
            for key, image in zip(decode.keys, decode.pending.result(), strict=True)
        ]

    def _admit(self) -> None:
        """Begin what was added and assign rows to it, in order, as far as there are free ones."""
        while self._added or self._begun:
            if not self._begun:
                few = min(AT_ONCE, len(self._added))
                self._begun += self._engine_requests([self._added.popleft() for _ in range(few)])
            if not (self._batch.is_open and self._batch.has_room(self._begun[0])):
                return
            self._batch.admit(self._begun.popleft())

    def _waiting_rows(self) -> int:
        added = sum(2 if self._requests[key].guidance_scale > 1 else 1 for key in self._added)
        return added + sum(engine_request.rows for engine_request in self._begun)

    def _engine_requests(self, keys: Sequence[Hashable]) -> list[EngineRequest]:
        """Return the initial states of a few requests, whose prompts are encoded together."""
        requests = [self._requests[key] for key in keys]
        guided = [request.guidance_scale > 1 for request in requests]
        negative = [request.negative_prompt for request in compress(requests, guided)]
        texts = self._networks.embeddings.conditions([request.prompt for request in requests] + negative)
        unguided = iter(texts[len(requests) :])
        return [
            self._engine_request(key, request, text, next(unguided) if is_guided else None)
            for key, request, is_guided, text in zip(keys, requests, guided, texts, strict=False)
        ]

    def _engine_request(
        self, key: Hashable, request: R, text: Conditions, unguided: Conditions | None
    ) -> EngineRequest:
        generator = seeded(request.seed)
        begun = self._handler.begin(request, generator)
        return EngineRequest(
            key=key,
            matrices=begun.matrices,
            latents=begun.latents,
            text=text,
            unguided=unguided,
            guidance=request.guidance_scale,
            generator=generator,
            beside=begun.beside,
            label=begun.label,
        )

    def _decode(self, finished: Sequence[Finished]) -> None:
        """Decode on a side stream, concurrently with the UNet's next calls where the device supports it."""
        if not finished:
            return
        latents, keys = [image.latents for image in finished], [image.key for image in finished]
        with on(self._networks.decoding, latents):
            pending = self._decoder.start_decode(
                latents, at_once=self._decoded_together, compile_options=self._compile_options
            )
        self._decodes.append(_Decode(keys, pending))
        del self._finished[: len(keys)]
