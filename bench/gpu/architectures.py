"""The architectures of real checkpoints, as in their repositories' config.json, and tiny ones of the same structure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.catalogue.card import Precision

Config = Mapping[str, Any]

VOCABULARY = 49408


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model to measure: the configurations of its networks, and its sampling parameters.

    `card` is the id of the card whose VAE factor it has; `side` is the side in pixels of the generated image, or of an
    upscaler's input image. `precision`, `sampler`, `steps` and `guidance_scale` are those of its model card. `rows` are
    the batch sizes to try.
    """

    name: str
    title: str
    card: str
    unet: Config
    vae: Config
    text: Config
    prediction_type: str = "epsilon"
    precision: Precision = "bfloat16"
    side: int
    sampler: str
    steps: int = 50
    guidance_scale: float = 7.5
    rows: tuple[int, ...]

    @property
    def is_upscaler(self) -> bool:
        """Whether it upscales an image."""
        return bool(self.unet.get("num_class_embeds"))

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def latent_side(self) -> int:
        """The side of the UNet's latents."""
        return self.side if self.is_upscaler else self.side // self.factor

    @property
    def key(self) -> str:
        """The prefix of its figures' keys."""
        return self.name.replace("-", "_")


def _vae(*channels: int, **more: Any) -> Config:
    levels = len(channels)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "latent_channels": 4,
    } | more


_UNET: Config = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
_UNET_2: Config = {
    **_UNET,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_CLIP_L: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_OPENCLIP_H: Config = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_ATTENDING = "CrossAttnDownBlock2D"
_ATTENDING_UP = "CrossAttnUpBlock2D"

SD_1_5 = Architecture(
    name="sd-1-5",
    title="SD 1.5, 512 px",
    card="sd-v1-5",
    unet={**_UNET, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae=_vae(128, 256, 512, 512, sample_size=512),
    text=_CLIP_L,
    precision="float16",
    side=512,
    sampler="pndm",
    rows=(16, 32, 8),
)

SD_2_1_BASE = Architecture(
    name="sd-2-1-base",
    title="SD 2.1 base, 512 px",
    card="sd-2-1-base",
    unet={**_UNET_2, "sample_size": 64},
    vae=_vae(128, 256, 512, 512, sample_size=512),
    text=_OPENCLIP_H,
    side=512,
    sampler="dpmpp_2m",
    rows=(16, 32),
)

SD_2_1 = Architecture(
    name="sd-2-1-768",
    title="SD 2.1, 768 px",
    card="sd-2-1",
    unet={**_UNET_2, "sample_size": 96},
    vae=_vae(128, 256, 512, 512, sample_size=768),
    text=_OPENCLIP_H,
    prediction_type="v_prediction",
    side=768,
    sampler="dpmpp_2m",
    rows=(8, 16),
)

X4 = Architecture(
    name="x4-upscaler",
    title="x4 upscaler, 128 to 512 px",
    card="sd-x4-upscaler",
    unet={
        "sample_size": 128,
        "in_channels": 7,
        "out_channels": 4,
        "block_out_channels": (256, 512, 512, 1024),
        "down_block_types": ("DownBlock2D", _ATTENDING, _ATTENDING, _ATTENDING),
        "up_block_types": (_ATTENDING_UP, _ATTENDING_UP, _ATTENDING_UP, "UpBlock2D"),
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": 8,
        "only_cross_attention": (True, True, True, False),
        "use_linear_projection": True,
        "num_class_embeds": 1000,
    },
    vae=_vae(128, 256, 512, sample_size=256, scaling_factor=0.08333),
    text=_OPENCLIP_H,
    prediction_type="v_prediction",
    side=128,
    sampler="ddim",
    steps=75,
    guidance_scale=9.0,
    rows=(8, 16),
)

ARCHITECTURES: Mapping[str, Architecture] = {found.name: found for found in (SD_1_5, SD_2_1, SD_2_1_BASE, X4)}
"""In the order in which they are measured."""

SAFETY_VISION: Config = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
TINY_VISION: Config = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 64,
}

_TINY_TEXT: Config = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}


def tiny(architecture: Architecture) -> Architecture:
    """Return a small version: two levels of a UNet, 64 pixels, six steps, batches of two or four images."""
    unet = {
        "sample_size": 8,
        "in_channels": architecture.unet["in_channels"],
        "out_channels": 4,
        "num_class_embeds": architecture.unet.get("num_class_embeds"),
        "block_out_channels": (16, 32),
        "down_block_types": (_ATTENDING, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", _ATTENDING_UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    }
    levels = len(architecture.vae["block_out_channels"])
    scaling = architecture.vae.get("scaling_factor", 0.18215)
    small = {"layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64, "scaling_factor": scaling}
    return replace(
        architecture,
        title=f"{architecture.title.partition(',')[0]}, tiny",
        unet=unet,
        vae=_vae(*(16,) * levels, **small),
        text=_TINY_TEXT,
        side=16 if architecture.is_upscaler else 64,
        steps=6,
        rows=(2, 4) if architecture is SD_1_5 else (2,),
    )
