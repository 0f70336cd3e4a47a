"""Merge LoRAs (Hu et al. 2021) in the formats of diffusers, peft and kohya into the weights of a pipeline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.errors import CheckpointError
from models.runtime.library_logging import quiet
from models.store.resolve_checkpoint import Checkpoint

Weights = Mapping[str, torch.Tensor]

_NAME = "lora"
_DOWN = (".lora_A.weight", ".down.weight")
_OTHER_KINDS = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_": "LoHa", "lokr_": "LoKr"}
_UNFIT = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, SafetensorError, RuntimeError)


def load_loras(pipeline: Any, loras: Sequence[tuple[Checkpoint, float]]) -> None:
    """Add each LoRA, times its weight, to the weights of a diffusers `pipeline` that is not quantised yet.

    Only the changed weights remain, no adapters. Raises CheckpointError if a LoRA can't be read or doesn't fit, even in
    a single layer.
    """
    for checkpoint, weight in loras:
        with quiet():
            _load(pipeline, checkpoint)
            pipeline.set_adapters(_NAME, weight)
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()


def _load(pipeline: Any, checkpoint: Checkpoint) -> None:
    file = _file(checkpoint.path)
    try:
        weights = load_file(file)
        _refuse_other_kinds(weights)
        if all(key.startswith("lora_") for key in weights):
            weights = _from_kohya(pipeline, weights)
            pipeline.load_lora_weights(weights, adapter_name=_NAME)
        else:
            where = {"weight_name": file.name, "local_files_only": True, "use_safetensors": True}
            pipeline.load_lora_weights(str(file.parent), adapter_name=_NAME, **where)
    except torch.OutOfMemoryError:
        raise
    except _UNFIT as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{file}: doesn't fit the model that it is asked for; was it trained on another one? {reason}"
        ) from error
    promised = sum(key.endswith(_DOWN) for key in weights)
    fitting = _layers(pipeline)
    if not promised or fitting != promised:
        raise CheckpointError(
            f"{file}: {fitting} of its {promised} layers are in the model that it is asked for;"
            " was it trained on another one?"
        )


def _file(path: Path) -> Path:
    return path if path.is_file() else next(path.glob("*.safetensors"))


def _refuse_other_kinds(weights: Weights) -> None:
    for key in weights:
        for sign, kind in _OTHER_KINDS.items():
            if sign in key:
                raise ValueError(f"it is a {kind}, and only plain LoRAs are read")


def _from_kohya(pipeline: Any, weights: Weights) -> dict[str, torch.Tensor]:
    """Return the weights under peft's names, each layer's alpha / rank multiplied into its second matrix.

    kohya writes underscores for the dots in a layer's name. diffusers' own conversion loses some layers and alphas of
    the text encoder without an error.
    """
    layers = {
        f"{prefix}{name.removeprefix('text_model.')}".replace(".", "_"): f"{part}.{name}"
        for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_"))
        for name, _ in getattr(pipeline, part).named_modules()
    }
    converted: dict[str, torch.Tensor] = {}
    for key in weights:
        kohya_name, _, rest = key.partition(".")
        if kohya_name not in layers:
            raise ValueError(f"there is no layer for {kohya_name}")
        if rest == "lora_down.weight":
            up, down = weights[f"{kohya_name}.lora_up.weight"], weights[key]
            alpha = weights.get(f"{kohya_name}.alpha", torch.tensor(down.shape[0]))
            converted[f"{layers[kohya_name]}.lora_A.weight"] = down
            converted[f"{layers[kohya_name]}.lora_B.weight"] = up * (alpha.item() / down.shape[0])
        elif rest not in {"lora_up.weight", "alpha"}:
            raise ValueError(f"{key} belongs to no plain LoRA")
    return converted


def _layers(pipeline: Any) -> int:
    """Return how many layers of the pipeline have received LoRA weights."""
    parts = (pipeline.unet, pipeline.text_encoder)
    return sum(_NAME in getattr(module, "lora_A", ()) for part in parts for module in part.modules())
