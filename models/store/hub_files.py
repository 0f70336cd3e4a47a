"""Choose which files of a hub repository to download, and their names in the model's folder."""

from collections.abc import Sequence

from models.catalogue.card import Card
from models.errors import CheckpointError
from models.store.vetting import PICKLES

_COMPONENTS = frozenset(
    {
        "depth_estimator",
        "feature_extractor",
        "low_res_scheduler",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
        "vae",
    }
)
_TEXTS = (".json", ".txt")
_WEIGHTS = ".safetensors"


def wanted_files(card: Card, repository: str, names: Sequence[str]) -> dict[str, str]:
    """Return the files of a repository that make up the model, each with its name in the model's folder.

    Weights are taken as safetensors, and in the card's variant alone. Raises CheckpointError if there are none, or only
    pickled ones.
    """
    taken: dict[str, str] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        local = _local_name(file, card.variant) if _is_part(card, name, folder) else None
        if local:
            taken[name] = local if card.parts or not folder else f"{folder}/{local}"
    _check_weights(card, repository, names, taken)
    return taken


def _is_part(card: Card, name: str, folder: str) -> bool:
    if card.parts:
        return folder in card.parts
    if card.family == "decoder" and name.endswith(_WEIGHTS):  # skip separate encoder, decoder
        return name == "diffusion_pytorch_model.safetensors"
    if card.family in {"text2image", "upscaler"}:
        return name == "model_index.json" or folder in _COMPONENTS
    return not folder


def _local_name(file: str, variant: str | None) -> str | None:
    """Return the file's name without its variant, or None if it isn't needed."""
    if file.endswith(_TEXTS):
        return file
    stem, _, its_variant = file.removesuffix(_WEIGHTS).partition(".")
    return stem + _WEIGHTS if file.endswith(_WEIGHTS) and its_variant == (variant or "") else None


def _check_weights(card: Card, repository: str, names: Sequence[str], taken: dict[str, str]) -> None:
    safe = {name.rpartition("/")[0] for name in taken if name.endswith(_WEIGHTS)}
    pickled = {
        name.rpartition("/")[0]
        for name in names
        if name.endswith(tuple(PICKLES)) and _is_part(card, name, name.rpartition("/")[0])
    }
    if pickled - safe:
        where = ", ".join(sorted(folder or "its top folder" for folder in pickled - safe))
        raise CheckpointError(
            f"{repository} holds pickled weights only in {where}; they can run code when they are read"
            " and are never fetched"
        )
    if not safe:
        raise CheckpointError(f"{repository} holds no weights as safetensors for {card.id}")
