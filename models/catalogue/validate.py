"""Validate cards beyond the types of their fields."""

import re
from collections.abc import Mapping
from pathlib import Path

from models.catalogue.card import Card
from models.catalogue.samplers import SAMPLERS

MODES = ("text2image", "image2image", "inpaint", "depth", "upscale")

_SAMPLED = (
    "width",
    "height",
    "size_multiple",
    "min_size",
    "max_size",
    "vae_factor",
    "steps",
    "samplers",
    "modes",
    "sampler",
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LINKS = {
    "upscaler": "upscaler",
    "safety_checker": "safety-checker",
    "clip": "clip",
    "decoder": "decoder",
    "base": "text2image",
}


def problem(card: Card) -> str | None:
    """Return what is wrong with the card on its own, or None."""
    if not _ID.fullmatch(card.id):
        return f"id {card.id!r} must be letters, digits, dots, dashes and underscores, at most 64"
    amiss = _place_problem(card)
    if amiss or card.family in {"safety-checker", "clip", "decoder"}:
        return amiss
    if card.family == "lora":
        return None if card.base else "a LoRA needs base, the id of the model that it was trained on"
    return _sampled_problem(card)


def link_problem(card: Card, names: Mapping[str, Card]) -> str | None:
    """Return the problem if the card refers to a missing card or a wrong family, or None. Keys are lower case."""
    for field, family in _LINKS.items():
        target = getattr(card, field)
        if target is not None and (
            target.casefold() not in names or names[target.casefold()].family != family
        ):
            return f"{field} {target!r} is not the id of a card of the family {family}"
    return None


def _place_problem(card: Card) -> str | None:
    if card.path is not None:
        if card.source or card.builder:
            return "path says where the files are, so that source and builder must be left out"
        if not Path(card.path).is_absolute():
            return f"path must be absolute, not {card.path!r}"
        needs_base = card.path.endswith(".safetensors") and card.base is None
        return "a single file needs base, the id of the model that it was made from" if needs_base else None
    if card.source in {"", ".", ".."} or any(sign in card.source for sign in "/\\\0"):
        return f"source must be the name of a folder under the models folder, not {card.source!r}"
    for source in (*card.sources, *card.withdrawn):
        repository, at, commit = source.partition("@")
        if not _REPOSITORY.fullmatch(repository) or (at and not _COMMIT.fullmatch(commit)):
            return f"{source!r} must be OWNER/NAME or OWNER/NAME@COMMIT, a commit being 40 hexadecimal digits"
    return None


def _sampled_problem(card: Card) -> str | None:
    missing = [name for name in _SAMPLED if not getattr(card, name)]
    if missing:
        return f"a model of the family {card.family} needs {', '.join(missing)}"
    unknown = [name for name in card.samplers if name not in SAMPLERS]
    if unknown:
        return f"unknown sampler {unknown[0]!r}; there are {', '.join(SAMPLERS)}"
    if card.sampler not in card.samplers:
        return f"sampler {card.sampler!r} is not one of its samplers"
    return _picture_problem(card) or _size_problem(card)


def _picture_problem(card: Card) -> str | None:
    strange = [name for name in card.modes if name not in MODES]
    if strange:
        return f"unknown mode {strange[0]!r}; there are {', '.join(MODES)}"
    if not 0 < card.strength <= 1:
        return f"strength {card.strength} must be above 0 and at most 1"
    if card.noise_level > card.max_noise_level:
        return f"noise_level {card.noise_level} is above max_noise_level {card.max_noise_level}"
    return None


def _size_problem(card: Card) -> str | None:
    if card.size_multiple % card.vae_factor:
        return f"size_multiple {card.size_multiple} must be a multiple of vae_factor {card.vae_factor}"
    for name in ("width", "height"):
        size = getattr(card, name)
        if size % card.size_multiple or not card.min_size <= size <= card.max_size:
            allowed = f"a multiple of {card.size_multiple} in {card.min_size}..{card.max_size}"
            return f"{name} {size} must be {allowed}"
    return None
