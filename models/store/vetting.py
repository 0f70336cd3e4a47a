"""Vet a checkpoint's files: safetensors and configurations only, nothing that can execute code when loaded."""

import os
import reprlib
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.catalogue.limited_files import read_json
from models.errors import CheckpointError
from models.store.validate_safetensors import check_weights

PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
_CODE = frozenset({".py", ".pyc", ".so"})
_COMPONENTS = frozenset(
    {
        "depth_estimator",
        "feature_extractor",
        "image_encoder",
        "low_res_scheduler",
        "safety_checker",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
        "vae",
    }
)
_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})


def vetted_files(folder: Path) -> list[Path]:
    """Return every file of a checkpoint's folder, sorted, without hidden ones (".cache", ".git").

    Raises CheckpointError for pickles, Python files, remote code, links out of the folder, damaged configurations, or
    if there are no safetensors.
    """
    files = sorted(_walk(folder))
    for file in files:
        _refuse_by_name(file)
        if file.name.endswith("config.json") or file.name == "model_index.json":
            _refuse_remote_code(file)
        if file.suffix.casefold() == ".safetensors":
            check_weights(file)
    if not any(file.suffix == ".safetensors" for file in files):
        raise CheckpointError(
            f"{folder}: holds no .safetensors file, so it is no checkpoint that can be read"
        )
    return files


def check_whole(path: Path, report: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the loading report of diffusers or transformers lists missing weights."""
    missing = sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))
    if missing:
        raise CheckpointError(f"{path}: lacks {len(missing)} weights, among them {missing[0]}")


def vetted_file(file: Path) -> Path:
    """Return the single weights file `file`. Raises CheckpointError unless it is a complete .safetensors file."""
    _refuse_by_name(file)
    if file.suffix.casefold() != ".safetensors":
        raise CheckpointError(f"{file}: is no .safetensors file, and no other weights are read")
    check_weights(file)
    return file


def _walk(folder: Path) -> Iterator[Path]:
    root = os.path.realpath(folder)
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in (*subfolders, *names):
            _refuse_links_out(Path(parent, name), root)
        for name in names:
            if not name.startswith("."):
                _refuse_strange(Path(parent, name))
                yield Path(parent, name)


def _refuse_links_out(path: Path, root: str) -> None:
    if path.is_symlink() and not f"{os.path.realpath(path)}/".startswith(f"{root}/"):
        raise CheckpointError(
            f"{printable(path)}: is a link out of the checkpoint's folder; put a copy of the file there"
        )


def _refuse_strange(file: Path) -> None:
    """Refuse pipes, devices, broken links, and names that the lock file can't store."""
    try:
        is_regular = stat.S_ISREG(file.stat().st_mode)
    except OSError as error:
        raise CheckpointError(f"{printable(file)}: can't be looked at: {error.strerror}; remove it") from None
    if not is_regular:
        raise CheckpointError(f"{printable(file)}: is no regular file; remove it")
    if printable(file) != str(file):
        raise CheckpointError(f"{printable(file)}: has a name that is not printable UTF-8; rename it")


def printable(path: Path) -> str:
    """Return a path as printable text for messages and the lock file."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


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
        if (amiss := _loader_problem(component, loader)) is not None:
            raise CheckpointError(f"{file}: {amiss}")


def _loader_problem(component: str, loader: object) -> str | None:
    """Return what is wrong with an entry of a model_index.json: a component has [library, class], or [null, null]."""
    if not isinstance(loader, list):
        is_setting = component.startswith("_") or component not in _COMPONENTS
        return None if is_setting else f"{component} must be [library, class], not {reprlib.repr(loader)}"
    if loader == [None, None]:
        return None
    if len(loader) != 2 or not all(isinstance(part, str) for part in loader):
        return f"{component} must be [library, class], not {reprlib.repr(loader)}"
    library, name = loader
    if library not in _LIBRARIES:
        return f"{component} would be loaded by {reprlib.repr(library)}; only diffusers and transformers may"
    return (
        None
        if name.isidentifier()
        else f"{component} would be loaded as {reprlib.repr(name)}, which is no class"
    )


def read_config(file: Path) -> dict[str, Any]:
    """Read the JSON object in `file`. Raises CheckpointError when it is missing or damaged."""
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: can't be read as JSON ({error}); fetch the checkpoint again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds no JSON object; fetch the checkpoint again")
    return config
