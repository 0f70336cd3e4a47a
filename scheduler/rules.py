"""What the catalogue's models let a row ask for, in the manifest's terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.manifest import ModelRules, RowRules
from models.catalogue import Card, Catalogue


@dataclass(frozen=True)
class Reading:
    """How the user wants a manifest read: columns set for all rows, headers renamed, strictness."""

    columns: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False


def row_rules(catalogue: Catalogue, default_model: str, reading: Reading, batch_seed: int) -> RowRules:
    """The rules that rows are checked by."""
    models = {
        name: model_rules(card, catalogue)
        for name, card in catalogue.ids_and_aliases().items()
        if card.family == "text2image"
    }
    catalogue.get(default_model)
    return RowRules(
        models=models,
        default_model=default_model,
        overrides=reading.columns,
        renames=reading.renames,
        batch_seed=batch_seed,
    )


def model_rules(card: Card, catalogue: Catalogue) -> ModelRules:
    """One model's limits; it upscales if its card names an upscaler."""
    upscaler = card.upscaler and catalogue.get(card.upscaler)
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
        upscales=frozenset({4}) if upscaler else frozenset(),
    )
