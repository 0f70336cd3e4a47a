"""What a checkpoint's folder may hold: safetensors, configurations, and nothing that runs code when read."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from models.errors import CheckpointError

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
_CODE = frozenset({".py", ".pyc", ".so"})
_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})


def vetted_files(folder: Path) -> list[Path]:
    """Every file of a checkpoint's folder, sorted, hidden ones (".cache", ".git") left out.

    Raises CheckpointError for pickles, Python files, remote code, links that leave the folder, damaged
    configurations, or when there are no safetensors.
    """
    files = sorted(_walk(folder))
    for file in files:
        _refuse_by_name(file)
        if file.name.endswith("config.json") or file.name == "model_index.json":
            _refuse_remote_code(file)
    if not any(file.suffix == ".safetensors" for file in files):
        raise CheckpointError(
            f"{folder}: holds no .safetensors file, so it is no checkpoint that can be read"
        )
    return files


def check_whole(path: Path, report: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the report of a loading by diffusers or transformers tells of missing weights."""
    missing = sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))
    if missing:
        raise CheckpointError(f"{path}: lacks {len(missing)} weights, among them {missing[0]}")


def vetted_file(file: Path) -> Path:
    """The single file of weights `file` itself. Raises CheckpointError unless it is whole safetensors."""
    _refuse_by_name(file)
    if file.suffix.casefold() != ".safetensors":
        raise CheckpointError(f"{file}: is no .safetensors file, and no other weights are read")
    try:
        with safe_open(file, "numpy"):
            return file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: can't be read as safetensors ({error}); fetch it again") from error


def _walk(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in (*subfolders, *names):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise CheckpointError(
                    f"{path}: is a link out of the checkpoint's folder; put a copy of the file there"
                )
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _refuse_by_name(file: Path) -> None:
    if file.suffix.casefold() in PICKLES:
        raise CheckpointError(
            f"{file}: pickled weights can run code when they are read and are refused;"
            " keep the .safetensors files and remove this one"
        )
    if file.suffix.casefold() in _CODE:
        raise CheckpointError(f"{file}: a checkpoint may not bring code of its own; remove the file")


def _refuse_remote_code(file: Path) -> None:
    config = read_config(file)
    if "auto_map" in config:
        raise CheckpointError(
            f"{file}: asks for remote code (auto_map), which is never run; use another checkpoint"
        )
    if file.name != "model_index.json":
        return
    for component, loader in config.items():
        if isinstance(loader, list) and loader and loader[0] not in {*_LIBRARIES, None}:
            raise CheckpointError(
                f"{file}: {component} would be loaded by {loader[0]!r}; only diffusers and transformers may"
            )


def read_config(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises CheckpointError when it is missing or damaged."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: can't be read as JSON ({error}); fetch the checkpoint again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds no JSON object; fetch the checkpoint again")
    return config
