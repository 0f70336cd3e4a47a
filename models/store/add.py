"""Add a user's own model: write a card for a folder or a single file, based on the card of its base model."""

from collections.abc import Sequence
from pathlib import Path

import tomli_w

from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.catalogue.read_card import make_card
from models.errors import CheckpointError, ModelError
from models.store.lockfile import write_lock
from models.store.resolve_checkpoint import seal
from models.store.validate_safetensors import check_lora, check_weights
from models.store.vetting import printable, read_config

# What a fine-tune doesn't share with the model that it was made from.
_NOT_INHERITED = {
    *("aliases", "source", "builder", "sources", "withdrawn", "variant", "parts"),
    *("hardware", "hardware_hours", "co2_kg"),
}


def add_model(path: Path, *, id: str, base: str, is_lora: bool, catalogue: Catalogue) -> Card:
    """Write a card for the model at `path`, a folder in diffusers format or a .safetensors file, and lock it.

    What the files don't tell, such as sizes, samplers and licence, is taken from the card `base`. Raises ModelError for
    a taken id or an unsuitable base, CheckpointError for files that are refused.
    """
    if printable(path) != str(path):
        raise ModelError(f"{printable(path)}: has a name that is not printable UTF-8; rename it")
    card = _lora_card(path, id, catalogue.get(base)) if is_lora else _card(path, id, catalogue.get(base))
    return _added(card, catalogue)


def add_classifier(path: Path, *, id: str, thresholds: Sequence[str], catalogue: Catalogue) -> Card:
    """Write a card for the image classifier in the folder `path`, with its configuration's labels, and lock it.

    `thresholds` are its labels that flag, as LABEL=SCORE. Raises ModelError for a taken id or a wrong threshold,
    CheckpointError for files that are refused.
    """
    if printable(path) != str(path):
        raise ModelError(f"{printable(path)}: has a name that is not printable UTF-8; rename it")
    labels = read_config(path / "config.json").get("id2label")
    if not isinstance(labels, dict) or not all(
        isinstance(label, str) and number.isdecimal() for number, label in labels.items()
    ):
        raise CheckpointError(
            f"{path}: its config.json has no labels (id2label), so it is no image classifier"
        )
    made = {
        "id": id,
        "title": id,
        "family": "classifier",
        "summary": "An image classifier of your own, to check images by.",
        "path": str(path),
        "license": "not known: see where it comes from",
        "limits": "Not known: see where it comes from.",
        "labels": [labels[number] for number in sorted(labels, key=int)],
        "thresholds": list(thresholds),
    }
    return _added(make_card(made, id), catalogue)


def _added(card: Card, catalogue: Catalogue) -> Card:
    id = card.id
    if id.casefold() in catalogue.names:
        raise ModelError(f"the name {id!r} is taken; choose another, or remove that one first")
    sealed = seal(card, catalogue.models_dir)
    _check_contents(card)
    own = catalogue.models_dir / "cards" / f"{id}.toml"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(tomli_w.dumps(card.model_dump(exclude_defaults=True)), encoding="utf-8")
    write_lock(catalogue.models_dir, {id: sealed})
    return card


def _card(path: Path, id: str, base: Card) -> Card:
    if base.family != "text2image":
        raise ModelError(
            f"{base.id} is of the family {base.family}; the base of a model must be of text2image"
        )
    made = {
        "id": id,
        "title": id,
        "summary": f"A fine-tune of {base.title}.",
        "path": str(path),
        "base": base.id,
    }
    inherited = base.model_dump(exclude=_NOT_INHERITED, exclude_defaults=True)
    return make_card(inherited | made, id)


def _lora_card(path: Path, id: str, base: Card) -> Card:
    made = {
        "id": id,
        "title": id,
        "family": "lora",
        "summary": f"A LoRA for {base.title}.",
        "path": str(path),
        "base": base.id,
    }
    inherited = base.model_dump(include={"license", "license_url", "use_restrictions", "limits"})
    return make_card(inherited | made, id)


def _check_contents(card: Card) -> None:
    """Raise CheckpointError for a LoRA added as a model or a model added as a LoRA, so that no worker fails on it."""
    path = Path(card.path or "")
    file = path if path.is_file() else next(path.glob("*.safetensors"), None)
    if file is None:
        return
    shapes = check_weights(file)
    has_lora = any("lora" in name for name in shapes)
    if card.family == "lora" and not has_lora:
        raise CheckpointError(f"{file}: holds no LoRA weights; a whole model is added without --lora")
    if card.family != "lora" and has_lora:
        raise CheckpointError(f"{file}: holds LoRA weights, no whole model; add it with --lora")
    if card.family == "lora":
        check_lora(file, shapes)
