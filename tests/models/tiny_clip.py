"""A tiny random CLIP of transformers' own classes, as a checkpoint's folder."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from models.runtime.library_logging import quiet
from models.tiny_random.tokenizer import build_tokenizer

_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def build_clip(folder: Path) -> Path:
    """Write it into `folder`/clip. Its weights are wide enough for pictures and prompts to differ."""
    tokenizer = build_tokenizer(folder / "built")
    config = CLIPConfig(
        text_config=_SMALL
        | {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "max_position_embeddings": 77,
        },
        vision_config=_SMALL | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # before the model is made, which draws its class embedding
        model = CLIPModel(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder / "clip")
    return folder / "clip"
