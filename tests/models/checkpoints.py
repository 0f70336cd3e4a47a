"""Small random checkpoints of the very classes and configurations that the served systems have.

What makes a system itself is kept: kinds and number of blocks, channels in, heads, projections, activations, the
noise schedule and what is predicted. Widths, vocabularies and most depths are not.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPImageProcessorPil, DPTImageProcessorPil

from models.catalogue.card import Card
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint, resolve
from tests.models import checkpoint_parts as parts

_CROSS = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_CROSS_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
_V1_UNET = {"attention_head_dim": 8, "down_block_types": _CROSS, "up_block_types": _CROSS_UP}
_V2_UNET = _V1_UNET | {"attention_head_dim": [2, 4, 4, 4], "use_linear_projection": True}
_X4_UNET = _V2_UNET | {
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
    "only_cross_attention": (True, True, True, False),
    "num_class_embeds": 1000,
}

SYSTEMS: Mapping[str, tuple[str, ...]] = {
    "v1": ("text2image", "image2image"),
    "v2-base": ("text2image", "image2image"),
    "v2": ("text2image", "image2image"),
    "v1-inpainting": ("inpaint",),
    "v2-inpainting": ("inpaint",),
    "v2-depth": ("depth",),
    "x4": ("upscale",),
}
"""Every system with the modes that it must serve."""


def checkpoint(system: str, models_dir: Path) -> Checkpoint:
    """The checkpoint of a system, made on the first call, with a card of its own."""
    card = Card.model_construct(  # without sizes, steps and samplers, which nothing here reads
        id=system,
        title=system,
        family="upscaler" if system == "x4" else "text2image",
        summary="A test.",
        license="CC0",
        limits="All.",
        source=system,
        vae_factor=4 if system == "x4" else 8,
        prediction_type="v_prediction" if system in {"v2", "x4"} else "epsilon",
        modes=SYSTEMS[system],
    )
    if not (models_dir / system).is_dir():
        build(system, models_dir / system)
    return resolve(card, models_dir)


def build(system: str, folder: Path) -> None:
    """Writes the checkpoint of a system into the new `folder`."""
    with quiet(), torch.random.fork_rng(devices=[]):
        _BUILDERS[system](folder).save_pretrained(folder)


def _v1(folder: Path) -> Any:
    return diffusers.StableDiffusionPipeline(
        **parts.text_v1(folder),
        unet=parts.unet(4, **_V1_UNET),
        vae=parts.vae(),
        scheduler=diffusers.PNDMScheduler(**_SCHEDULE, skip_prk_steps=True),
        safety_checker=parts.safety_checker(),
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
    )


def _v1_inpainting(folder: Path) -> Any:
    return diffusers.StableDiffusionInpaintPipeline(
        **parts.text_v1(folder),
        unet=parts.unet(9, **_V1_UNET),
        vae=parts.vae(),
        scheduler=diffusers.PNDMScheduler(**_SCHEDULE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _v2_base(folder: Path) -> Any:
    return diffusers.StableDiffusionPipeline(
        **parts.text_v2(folder),
        unet=parts.unet(4, **_V2_UNET),
        vae=parts.vae(),
        scheduler=diffusers.PNDMScheduler(**_SCHEDULE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _v2(folder: Path) -> Any:
    return diffusers.StableDiffusionPipeline(
        **parts.text_v2(folder),
        unet=parts.unet(4, **_V2_UNET, upcast_attention=True),
        vae=parts.vae(),
        scheduler=diffusers.DDIMScheduler(**_SCHEDULE, clip_sample=False, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _v2_inpainting(folder: Path) -> Any:
    return diffusers.StableDiffusionInpaintPipeline(
        **parts.text_v2(folder),
        unet=parts.unet(9, **_V2_UNET),
        vae=parts.vae(),
        scheduler=diffusers.DDIMScheduler(**_SCHEDULE, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _v2_depth(folder: Path) -> Any:
    side = {"height": 32, "width": 32}
    return diffusers.StableDiffusionDepth2ImgPipeline(
        **parts.text_v2(folder),
        unet=parts.unet(5, **_V2_UNET),
        vae=parts.vae(),
        scheduler=diffusers.PNDMScheduler(**_SCHEDULE, skip_prk_steps=True),
        depth_estimator=parts.depth_estimator(),
        feature_extractor=DPTImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3),
    )


def _x4(folder: Path) -> Any:
    return diffusers.StableDiffusionUpscalePipeline(
        **parts.text_v2(folder),
        unet=parts.unet(7, **_X4_UNET),
        vae=parts.vae(levels=3, scaling_factor=0.08333),
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="scaled_linear"),
        scheduler=diffusers.DDIMScheduler(
            **_SCHEDULE | {"beta_start": 0.0001, "beta_end": 0.02},
            clip_sample=False,
            prediction_type="v_prediction",
        ),
        max_noise_level=350,
    )


_BUILDERS: Mapping[str, Callable[[Path], Any]] = {
    "v1": _v1,
    "v2-base": _v2_base,
    "v2": _v2,
    "v1-inpainting": _v1_inpainting,
    "v2-inpainting": _v2_inpainting,
    "v2-depth": _v2_depth,
    "x4": _x4,
}
