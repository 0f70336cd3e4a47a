"""Check .safetensors files: headers, tensor shapes and, for LoRAs, ranks and finite values."""

import re
from collections.abc import Mapping
from pathlib import Path

from models.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

MAX_RANK = 4096
_MAX_HEADER = 2**24
_DOWN = re.compile(
    r"(.*)(?:\.lora_A(\.\w+)?\.weight|\.lora_down\.weight|[._]lora\.down\.weight|\.down\.weight)"
)


def check_weights(file: Path) -> Shapes:
    """Return the shape of every tensor of `file`, reading only its header.

    Raises CheckpointError if it isn't a complete .safetensors file (a pickle with that extension, for instance) or
    contains no weights.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - an installation without workers lacks it

    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
        if size > _MAX_HEADER:
            raise CheckpointError(f"{file}: is no safetensors file, whatever its name; fetch it again")
        with safe_open(file, "numpy") as weights:
            shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{file}: can't be read as safetensors ({error}); fetch it again") from error
    if not any(_is_filled(shape) for shape in shapes.values()):
        raise CheckpointError(f"{file}: holds no weights; fetch it again")
    return shapes


def check_lora(file: Path, shapes: Shapes) -> None:
    """Raise CheckpointError unless the tensors of the LoRA `file` are finite, non-empty and of a permitted rank."""
    for name, shape in shapes.items():
        if not _is_filled(shape):
            raise CheckpointError(f"{file}: {name} has the shape {list(shape)}, which holds nothing")
        match = _DOWN.fullmatch(name)
        if match and shape and shape[0] > MAX_RANK:
            raise CheckpointError(f"{file}: {name} has the rank {shape[0]:,}; at most {MAX_RANK:,} are taken")
    _check_finite(file, shapes)


def _check_finite(file: Path, shapes: Shapes) -> None:
    import torch  # noqa: PLC0415 - takes a second to import; needed because numpy has no bfloat16
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(file, "pt") as weights:
        for name in shapes:
            if not torch.isfinite(weights.get_tensor(name).to(torch.float32)).all():
                raise CheckpointError(
                    f"{file}: {name} holds what is no finite number; train or fetch it again"
                )


def _is_filled(shape: tuple[int, ...]) -> bool:
    return all(side > 0 for side in shape)
