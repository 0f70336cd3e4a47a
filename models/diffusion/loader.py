"""Load a diffusers pipeline from a vetted checkpoint, and check it against its card."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from models.diffusion.loading_error_types import UNLOADABLE
from models.diffusion.lora import load_loras
from models.diffusion.request_mode import SERVED
from models.diffusion.single_file import load_single_file
from models.diffusion.vae_attention import chunk_attention
from models.engine.unet_forward_with_reuse import unknown_part
from models.errors import CheckpointError
from models.runtime.batch_invariant_cpu import make_batch_invariant
from models.runtime.device import Device, memory_errors
from models.runtime.library_logging import quiet
from models.runtime.memory_options import FULL, MemoryOptions
from models.store.resolve_checkpoint import Checkpoint

_SERVED: dict[int, tuple[str, ...]] = {**SERVED, 7: ("upscale",)}


_LEFT_OUT = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
}
"""Components that the engine doesn't use, as arguments of the pipeline classes that have them."""


def check_unet(checkpoint: Checkpoint, pipeline: Any) -> None:
    """Raise CheckpointError if the UNet can't serve the card's modes, or isn't one of Stable Diffusion 1 or 2."""
    channels, place = pipeline.unet.config.in_channels, checkpoint.path / "unet"
    if unserved := set(checkpoint.card.modes) - set(_SERVED.get(channels, ())):
        raise CheckpointError(
            f"{place}: it takes {channels} channels, with which there is no {min(unserved)},"
            " which its card promises"
        )
    if unknown := unknown_part(pipeline.unet.config):
        raise CheckpointError(
            f"{place}: it has {unknown}, which UNets of Stable Diffusion 1 and 2 have not;"
            " use a model of their kind"
        )


def load_pipeline(
    checkpoint: Checkpoint,
    device: Device,
    class_name: str,
    *,
    loras: Sequence[tuple[Checkpoint, float]] = (),
    memory_options: MemoryOptions = FULL,
    check_denoiser: Callable[[Checkpoint, Any], None] = check_unet,
) -> Any:
    """Load the pipeline of `checkpoint` onto `device`, without safety checker, from local safetensors only.

    `class_name` is a class of diffusers; `check_denoiser` raises CheckpointError for a network that isn't supported.
    Raises CheckpointError when the files can't be loaded or disagree with the card, OutOfMemoryError.
    """
    with memory_errors(device):
        try:
            pipeline = _from_files(checkpoint, device, class_name)
        except UNLOADABLE as error:
            raise CheckpointError(f"{checkpoint.path}: can't be loaded as a {class_name}: {error}") from error
        _check_vae(pipeline, checkpoint)
        check_denoiser(checkpoint, pipeline)
        _check_prediction_type(pipeline, checkpoint)
        load_loras(pipeline, loras)
    put_on(pipeline, device, memory_options)
    return pipeline


def put_on(pipeline: Any, device: Device, memory_options: MemoryOptions = FULL) -> None:
    """Move a diffusers pipeline to the device and apply the options needed there. Raises OutOfMemoryError."""
    with memory_errors(device):
        if device.dtype == torch.float16 and pipeline.vae.config.force_upcast:
            pipeline.vae.to(dtype=torch.float32)
        memory_options.quantise(pipeline, device)
        pipeline.to(device.name)
    memory_options.slice(pipeline)
    chunk_attention(pipeline.vae)
    if device.name == "cpu":
        for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            make_batch_invariant(network)


def _from_files(checkpoint: Checkpoint, device: Device, class_name: str) -> Any:
    with quiet():
        import diffusers  # noqa: PLC0415 - importing its pipelines logs messages

        pipeline_class = getattr(diffusers, class_name)
        known = inspect.signature(pipeline_class.__init__).parameters
        left_out: dict[str, Any] = {name: value for name, value in _LEFT_OUT.items() if name in known}
        if checkpoint.path.is_file():
            return load_single_file(checkpoint, pipeline_class, torch_dtype=device.dtype, **left_out)
        return pipeline_class.from_pretrained(
            checkpoint.path, dtype=device.dtype, local_files_only=True, use_safetensors=True, **left_out
        )


def _check_vae(pipeline: Any, checkpoint: Checkpoint) -> None:
    """Check what would give wrong sizes without an error."""
    factor, expected = 2 ** (len(pipeline.vae.config.block_out_channels) - 1), checkpoint.card.vae_factor
    if factor != expected:
        raise CheckpointError(f"{checkpoint.path}: its VAE scales by {factor}, its card says {expected}")


def _check_prediction_type(pipeline: Any, checkpoint: Checkpoint) -> None:
    """Check what would give noise without an error."""
    prediction, expected = (
        pipeline.scheduler.config.get("prediction_type", "epsilon"),
        checkpoint.card.prediction_type,
    )
    if prediction != expected:
        raise CheckpointError(
            f"{checkpoint.path / 'scheduler'}: its prediction type is {prediction!r},"
            f" its card says {expected!r}; one of them is wrong"
        )
