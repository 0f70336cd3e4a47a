"""The networks of the small random checkpoints."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, DPTConfig, DPTForDepthEstimation

from models.tiny_random.tokenizer import END, START, build_tokenizer
from models.tiny_random.weights import fill

_TEXT_WIDTH = 32


def text_v1(folder: Path) -> dict[str, Any]:
    """CLIP ViT-L/14's text encoder, of which the last layer is read."""
    return _text(folder, hidden_act="quick_gelu", num_hidden_layers=3)


def text_v2(folder: Path) -> dict[str, Any]:
    """OpenCLIP ViT-H's: 23 of its 24 layers, so that the last but one is read."""
    return _text(folder, hidden_act="gelu", num_hidden_layers=23)


def _text(folder: Path, **config: Any) -> dict[str, Any]:
    tokenizer = build_tokenizer(folder / "tokenizer")
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            num_attention_heads=4,
            projection_dim=_TEXT_WIDTH,
            bos_token_id=tokenizer.convert_tokens_to_ids(START),
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            **config,
        )
    )
    fill(encoder, seed=1)
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def unet(in_channels: int, **config: Any) -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=_TEXT_WIDTH,
        **config,
    )
    fill(unet, seed=2)
    return unet


def vae(levels: int = 4, scaling_factor: float = 0.18215) -> Any:
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16, 16, 16)[:levels],
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=scaling_factor,
        sample_size=64,
    )
    fill(vae, seed=3)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(0.3)
    return vae


def safety_checker() -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 16,
        "hidden_act": "quick_gelu",
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    fill(checker, seed=4)
    return checker


def depth_estimator() -> Any:
    """A DPT-Hybrid: a ResNetv2 before the transformer."""
    backbone = {
        "model_type": "bit",
        "global_padding": "same",
        "layer_type": "bottleneck",
        "depths": [1, 1, 1],
        "hidden_sizes": [16, 32, 64],
        "embedding_size": 16,
        "out_features": ["stage1", "stage2", "stage3"],
        "embedding_dynamic_padding": True,
        "num_groups": 2,
    }
    estimator = DPTForDepthEstimation(
        DPTConfig(
            is_hybrid=True,
            backbone_config=backbone,
            backbone_featmap_shape=[1, 64, 2, 2],
            image_size=32,
            patch_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[16, 32, 32, 32],
            fusion_hidden_size=32,
            neck_ignore_stages=[0, 1],
        )
    )
    fill(estimator, seed=5)
    return estimator
