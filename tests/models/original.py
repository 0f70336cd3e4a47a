"""A diffusers checkpoint written as one file in the original format, the keys as Stable Diffusion's code has them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}

_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "encoder.layers": "transformer.resblocks",
    "final_layer_norm": "ln_final",
    "layer_norm": "ln_",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def write_single_file(folder: Path, file: Path, *, is_version_2: bool = False) -> None:
    """Writes the checkpoint in `folder` as the single `file`.

    The text encoder is CLIP as version 1 has it, or OpenCLIP as version 2.
    """
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    layers = len({key.split(".")[3] for key in unet if key.startswith("down_blocks.0.resnets.")})
    weights: Weights = {}
    for key, value in unet.items():
        has_attention = f"{'.'.join(key.split('.')[:2])}.attentions.0.norm.weight" in unet
        weights[f"model.diffusion_model.{_unet_key(key, layers, has_attention)}"] = value
    for key, value in vae.items():
        is_linear = ".attentions." in key and value.ndim == 2
        weights[f"first_stage_model.{_vae_key(key)}"] = value[:, :, None, None] if is_linear else value
    weights |= _open_clip(text) if is_version_2 else _clip(text)
    save_file({key: value.contiguous() for key, value in weights.items()}, file, metadata={"format": "pt"})


def _clip(text: Weights) -> Weights:
    return {f"cond_stage_model.transformer.{_wrapped(key)}": value for key, value in text.items()}


def _open_clip(text: Weights) -> Weights:
    weights: Weights = {}
    for key, value in text.items():
        stem, _, end = _wrapped(key).removeprefix("text_model.").rpartition(".")
        if stem.endswith("q_proj"):
            others = [text[key.replace("q_proj", other)] for other in ("k_proj", "v_proj")]
            weights[_open_clip_key(stem.removesuffix(".q_proj"), f"in_proj_{end}")] = torch.cat(
                [value, *others]
            )
        elif not stem.endswith(("k_proj", "v_proj")):
            weights[_open_clip_key(stem, end)] = value
    weights["cond_stage_model.model.text_projection"] = torch.eye(value.shape[-1])
    return weights


def _open_clip_key(stem: str, end: str) -> str:
    if stem == "embeddings.position_embedding":
        return "cond_stage_model.model.positional_embedding"
    for ours, theirs in _OPEN_CLIP.items():
        stem = stem.replace(ours, theirs)
    return f"cond_stage_model.model.{stem}.{end}"


def _wrapped(key: str) -> str:
    return key if key.startswith("text_model.") else f"text_model.{key}"


def _unet_key(key: str, layers: int, has_attention: bool) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    kind, *rest = key.split(".")
    if kind == "mid_block":
        place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(rest[:2])]
        return f"middle_block.{place}.{_resnet(rest[2:], _UNET_RESNET)}"
    block, part, item, tail = int(rest[0]), rest[1], int(rest[2]), rest[3:]
    # Upwards, a block has one resnet more than downwards.
    if kind == "down_blocks":
        first = block * (layers + 1)
        if part == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{tail[-1]}"
        return f"input_blocks.{first + item + 1}.{part == 'attentions':d}.{_resnet(tail, _UNET_RESNET)}"
    first = block * (layers + 1)
    if part == "upsamplers":
        return f"output_blocks.{first + layers}.{has_attention + 1}.conv.{tail[-1]}"
    return f"output_blocks.{first + item}.{part == 'attentions':d}.{_resnet(tail, _UNET_RESNET)}"


def _vae_key(key: str) -> str:
    side, *rest = key.split(".")
    if side in {"quant_conv", "post_quant_conv"} or rest[0] in {"conv_in", "conv_out"}:
        return key
    if rest[0] == "conv_norm_out":
        return f"{side}.norm_out.{rest[-1]}"
    if rest[0] == "mid_block":
        place = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}[
            ".".join(rest[1:3])
        ]
        names = _VAE_ATTENTION if rest[1] == "attentions" else {"conv_shortcut": "nin_shortcut"}
        return f"{side}.mid.{place}.{_resnet(rest[3:], names)}"
    number = int(rest[1]) if side == "encoder" else 3 - int(rest[1])
    level = f"{side}.{'down' if side == 'encoder' else 'up'}.{number}"
    if rest[2] in {"downsamplers", "upsamplers"}:
        return f"{level}.{rest[2].removesuffix('rs')}.conv.{rest[-1]}"
    return f"{level}.block.{rest[3]}.{_resnet(rest[4:], {'conv_shortcut': 'nin_shortcut'})}"


def _resnet(tail: list[Any], names: dict[str, str]) -> str:
    """The last part of a key under its original name."""
    whole = ".".join(tail)
    for ours, theirs in names.items():
        if whole.startswith(f"{ours}."):
            return whole.replace(ours, theirs, 1)
    return whole
