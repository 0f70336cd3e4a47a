"""The networks of a loaded model, prepared for the engine."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from models.engine import unet_forward_with_reuse
from models.engine.denoising_request import Conditions
from models.engine.denoising_slots import LatentShape, UNetBatch
from models.engine.prompt_cache import PromptEmbeddings
from models.engine.sampler_matrices import SamplerMatricesCache
from models.engine.throughput_probe import measure_throughput
from models.engine.vae_decode import Decoder
from models.engine.whole_and_shallow_unet_calls import UNetForward
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.cuda_graphs_and_streams import side_stream
from models.runtime.device import Device, memory_errors


class TextConditions(Protocol):
    """Encodes prompts into what the UNet reads of them; keeps the last ones until `forget`."""

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]: ...
    def conditions(self, prompts: Sequence[str]) -> Sequence[Conditions]: ...
    def forget(self) -> None: ...


class Networks:
    """The networks of a diffusers pipeline on a device, prepared for `Engine`; they outlive the engines on them."""

    def __init__(
        self,
        pipeline: Any,
        device: Device,
        compile_options: CompileOptions = PLAIN,
        *,
        embeddings: TextConditions | None = None,
        forward: UNetForward = unet_forward_with_reuse,
    ) -> None:
        """Take a pipeline with `unet`, `vae` and `scheduler`.

        `embeddings` encode prompts, by default with the pipeline's `tokenizer` and `text_encoder`; `forward` is the
        forward pass of the UNet's kind.
        """
        self.pipeline, self.device, self.compile_options = pipeline, device, compile_options
        self.embeddings = embeddings or PromptEmbeddings(pipeline.tokenizer, pipeline.text_encoder)
        self._forward = forward
        self.matrices_cache = SamplerMatricesCache(dict(pipeline.scheduler.config))
        compile_options.arrange(pipeline.unet, orders_norms=True)
        compile_options.arrange(pipeline.vae)
        self.decoder = Decoder(pipeline.vae, device.dtype)
        self.decoding = side_stream(torch.device(device.name))
        self._batch: UNetBatch | None = None

    def measure_throughput(self, shape: LatentShape, rows: int) -> float:
        """Measure image steps per second with `models.engine.throughput_probe`; frees the current batch first."""
        self._batch = None
        try:
            return measure_throughput(
                self.pipeline, self.device, shape, self.embeddings.shapes, rows, self._forward
            )
        finally:
            self.device.give_back()

    @torch.inference_mode()
    def batch(
        self, shape: LatentShape, rows: int, cache_interval: int, compile_options: CompileOptions
    ) -> UNetBatch:
        """Return the UNet batch of the last engine if it fits, else a new one. Raises OutOfMemoryError."""
        batch, wanted = self._batch, (rows, shape, cache_interval, compile_options)
        if (
            batch is None
            or (batch.rows, batch.latents, batch.cache_interval, batch.compile_options) != wanted
        ):
            batch = self._batch = None
            self.device.give_back()  # a batch is in reference cycles, and holds memory until they are collected
            with memory_errors(self.device):
                batch = UNetBatch(
                    self.pipeline.unet,
                    rows,
                    shape,
                    self.embeddings.shapes,
                    forward=self._forward,
                    cache_interval=cache_interval,
                    compile_options=compile_options,
                )
            self._batch = batch
        return batch
