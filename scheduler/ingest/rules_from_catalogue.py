"""Translates the model catalogue into the rules that manifest rows are validated by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.manifest import LoraRules, ModelRules, RowRules, plain_sampler
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.catalogue.samplers import other_names

_SAMPLER_NAMES = {plain_sampler(name): ours for name, ours in other_names().items()}


@dataclass(frozen=True)
class Reading:
    """How to read a manifest: columns set for all rows, headers renamed or dropped, strictness."""

    columns: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    drop: tuple[str, ...] = ()
    unique_ids: bool = False


def row_rules(
    catalogue: Catalogue,
    default_model: str,
    reading: Reading,
    *,
    image_roots: tuple[str, ...] = (),
    needs_clip: bool = False,
    needs_decoder: bool = False,
    needs_tiled_mark: bool = False,
) -> RowRules:
    """Return the rules that rows are validated by."""
    names = catalogue.ids_and_aliases()
    models = {
        name: model_rules(card, catalogue)
        for name, card in names.items()
        if card.family in ("text2image", "upscaler")
    }
    catalogue.get(default_model)
    return RowRules(
        models=models,
        default_model=default_model,
        overrides=reading.columns,
        renames=reading.renames,
        loras={name: lora_rules(card, catalogue) for name, card in names.items() if card.family == "lora"},
        image_roots=image_roots,
        needs_clip=needs_clip,
        needs_decoder=needs_decoder,
        needs_tiled_mark=needs_tiled_mark,
        sampler_names=_SAMPLER_NAMES,
        dropped=frozenset(name.strip().lower() for name in reading.drop),
    )


def model_rules(card: Card, catalogue: Catalogue) -> ModelRules:
    """Return one model's limits; it can upscale if it is an upscaler or its card names one."""
    upscaler = catalogue.get(card.upscaler) if card.upscaler else card
    return ModelRules(
        id=card.id,
        width=card.width,
        height=card.height,
        steps=card.steps,
        guidance_scale=card.guidance_scale,
        sampler=card.sampler,
        samplers=frozenset(card.samplers),
        size_multiple=card.size_multiple,
        min_size=card.min_size,
        max_size=card.max_size,
        modes=frozenset(card.modes),
        upscales=frozenset({4}) if upscaler.family == "upscaler" else frozenset(),
        noise_level_max=upscaler.max_noise_level,
        noise_level=upscaler.noise_level,
        strength=card.strength,
        has_clip=card.clip is not None,
        has_decoder=card.decoder is not None,
    )


def lora_rules(card: Card, catalogue: Catalogue) -> LoraRules:
    """Return the rules of one LoRA, which fits the models of its base's kind."""
    base = catalogue.get(card.base or "")
    fits = frozenset(
        model.id
        for model in catalogue.cards()
        if model.family == "text2image" and _kind(model, catalogue) == _kind(base, catalogue)
    )
    return LoraRules(card.id, base.id, fits)


def _kind(card: Card, catalogue: Catalogue) -> str:
    """Return the kind of models that share LoRAs: those with the same generation's UNet and text encoder."""
    seen = {card.id}
    while card.base and (base := catalogue.get(card.base)).id not in seen:
        card = base
        seen.add(card.id)
    generation = re.match(r"sd-(v1|2)(?=-|$)", card.id)
    return generation[0] if generation else card.id
