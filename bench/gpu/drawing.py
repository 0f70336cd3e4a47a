"""The image generators compared: nightmill's engine, and diffusers' pipeline as in the model cards' sample code."""

import gc
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import models
from bench.gpu.architectures import Architecture
from bench.gpu.networks import pipeline_of
from bench.gpu.pace import Draw
from models.catalogue.read_card import read_card
from models.diffusion.loader import put_on
from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint

PROMPT = "a photo of an astronaut riding a horse on mars"


class Ours:
    """A nightmill model with random weights, run as in a worker."""

    def __init__(
        self, architecture: Architecture, device: Device, compile_options: CompileOptions = PLAIN
    ) -> None:
        self.architecture = architecture
        fresh()
        card = read_card(Path(models.__file__).parent / "cards" / f"{architecture.card}.toml")
        checkpoint = Checkpoint(card, Path("nowhere"), "random", "")
        pipeline = pipeline_of(architecture, device.name, device.dtype)
        put_on(pipeline, device)
        self.vae = pipeline.vae
        kind = Upscaler if architecture.is_upscaler else StableDiffusion
        self.model: Any = kind(checkpoint, pipeline, device, compile_options)
        self._numbers = count()

    def at(self, rows: int) -> Draw:
        """Return a function that generates images with distinct prompts and seeds, `rows` at once."""

        def draw(images: int, steps: int) -> None:
            if self.architecture.is_upscaler:
                self.model.render([self._enlargement(steps) for _ in range(images)], rows=rows)
            else:
                self.model.render([self._image(steps) for _ in range(images)], rows=rows)

        return draw

    def _image(self, steps: int) -> ImageRequest:
        found, number = self.architecture, next(self._numbers)
        return ImageRequest(
            prompt=f"{PROMPT}, take {number}",
            width=found.side,
            height=found.side,
            steps=steps,
            guidance_scale=found.guidance_scale,
            sampler=found.sampler,
            seed=number,
        )

    def _enlargement(self, steps: int) -> UpscaleRequest:
        found, number = self.architecture, next(self._numbers)
        return UpscaleRequest(
            pixels=small_image(found.side),
            prompt=f"a white cat, take {number}",
            steps=steps,
            guidance_scale=found.guidance_scale,
            sampler=found.sampler,
            seed=number,
        )


class Stock:
    """Diffusers' pipeline with random weights, without safety checker and otherwise unmodified."""

    def __init__(self, architecture: Architecture, device: Device) -> None:
        self.architecture = architecture
        fresh()
        dtype = torch.float16 if device.name.startswith("cuda") else torch.float32
        self._pipeline = pipeline_of(architecture, device.name, dtype).to(device.name)
        self._pipeline.set_progress_bar_config(disable=True)

    def at(self, batch: int) -> Draw:
        """Return a function that generates images of one prompt, `batch` per call."""
        found, prompts = self.architecture, [PROMPT] * batch
        given: dict[str, Any] = {"height": found.side, "width": found.side}
        if found.is_upscaler:
            given = {"image": [Image.fromarray(small_image(found.side))] * batch}

        def draw(images: int, steps: int) -> None:
            for _ in range(-(-images // batch)):
                drawn = self._pipeline(
                    prompts, num_inference_steps=steps, guidance_scale=found.guidance_scale, **given
                )
                assert len(drawn.images) == batch

        return draw


def small_image(side: int) -> npt.NDArray[np.uint8]:
    """Return an image to upscale, (side, side, 3)."""
    return np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)


def fresh() -> None:
    """Free what earlier models left: memory, and code compiled for other shapes."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
