"""Load a diffusers pipeline from a vetted checkpoint, and check it against its card."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from models.diffusion.loading_error_types import UNLOADABLE
from models.diffusion.lora import load_loras
from models.diffusion.modes import SERVED
from models.diffusion.single_file import load_single_file
from models.diffusion.vae_attention import chunk_attention
from models.engine.unet_forward_with_reuse import unknown_part
from models.errors import CheckpointError
from models.runtime.batch_invariant_cpu import make_batch_invariant
from models.runtime.device import Device, memory_errors
from models.runtime.library_logging import quiet
from models.runtime.memory_options import FULL, MemoryOptions
from models.store.resolve_checkpoint import Checkpoint

PipelineClass = Literal["StableDiffusionPipeline", "StableDiffusionUpscalePipeline"]

_SERVED: dict[int, tuple[str, ...]] = {**SERVED, 7: ("upscale",)}


def load_pipeline(
    checkpoint: Checkpoint,
    device: Device,
    class_name: PipelineClass,
    *,
    loras: Sequence[tuple[Checkpoint, float]] = (),
    memory_options: MemoryOptions = FULL,
) -> Any:
    """Load the pipeline of `checkpoint` onto `device`, without safety checker, from local safetensors only.

    Raises CheckpointError when the files can't be loaded or disagree with the card, OutOfMemoryError.
    """
    with memory_errors(device):
        try:
            pipeline = _from_files(checkpoint, device, class_name)
        except UNLOADABLE as error:
            raise CheckpointError(f"{checkpoint.path}: can't be loaded as a {class_name}: {error}") from error
        _check(pipeline, checkpoint)
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


def _from_files(checkpoint: Checkpoint, device: Device, class_name: PipelineClass) -> Any:
    left_out: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    if class_name == "StableDiffusionPipeline":
        left_out |= {"requires_safety_checker": False, "image_encoder": None}
    with quiet():
        import diffusers  # noqa: PLC0415 - importing its pipelines logs messages

        pipeline_class = getattr(diffusers, class_name)
        if checkpoint.path.is_file():
            return load_single_file(checkpoint, pipeline_class, torch_dtype=device.dtype, **left_out)
        return pipeline_class.from_pretrained(
            checkpoint.path, dtype=device.dtype, local_files_only=True, use_safetensors=True, **left_out
        )


def _check(pipeline: Any, checkpoint: Checkpoint) -> None:
    """Check what would otherwise give noise or wrong sizes without an error: prediction type, VAE factor, UNet."""
    card = checkpoint.card
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    if factor != card.vae_factor:
        raise CheckpointError(
            f"{checkpoint.path}: its VAE scales by {factor}, its card says {card.vae_factor}"
        )
    channels = pipeline.unet.config.in_channels
    unserved = set(card.modes) - set(_SERVED.get(channels, ()))
    if unserved:
        raise CheckpointError(
            f"{checkpoint.path / 'unet'}: it takes {channels} channels, with which there is no {min(unserved)},"
            " which its card promises"
        )
    if unknown := unknown_part(pipeline.unet.config):
        raise CheckpointError(
            f"{checkpoint.path / 'unet'}: it has {unknown}, which UNets of Stable Diffusion 1 and 2 have not;"
            " use a model of their kind"
        )
    prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction != card.prediction_type:
        raise CheckpointError(
            f"{checkpoint.path / 'scheduler'}: its prediction type is {prediction!r},"
            f" its card says {card.prediction_type!r}; one of them is wrong"
        )
