"""The `lora` column and `<lora:…>` tags in prompts: LoRA ids with weights."""

import re

from jobs.manifest.columns.header import did_you_mean
from jobs.manifest.types import LoraRules, ModelRules, RowRules
from jobs.manifest.values import ProblemError, decimal_number, free_text, missing, shown
from jobs.suggest_names_and_shorten_lists import some_of

MAX_LORAS = 8
_TAG = re.compile(r"\s*<lora:([^:<>]*)(?::([^<>]*))?>", re.IGNORECASE)
_MAX_TEXT = 1_000
_MAX_WEIGHT = 2.0


def read_loras(value: object, model: ModelRules, rules: RowRules) -> str:
    """Parse `id`, `id:0.8` or `id:0.8+other:0.5` into the canonical `id:weight+…`, sorted by id; "" for none."""
    if missing(value):
        return ""
    weights: dict[str, float] = {}
    for part in free_text("lora", value, _MAX_TEXT).split("+"):
        lora, weight = _part(part, rules)
        if model.id not in lora.fits:
            raise ProblemError("lora", _misfit(lora, model))
        if lora.id in weights:
            raise ProblemError("lora", f"LoRA {lora.id!r} is named twice; give it one weight")
        weights[lora.id] = weight
    if len(weights) > MAX_LORAS:
        raise ProblemError("lora", f"a row takes at most {MAX_LORAS} LoRAs, not {len(weights)}")
    return "+".join(f"{id}:{weight:.6g}" for id, weight in sorted(weights.items()))


def take_tags(prompt: str) -> tuple[str, list[str]]:
    """Split a prompt into the prompt without `<lora:id:weight>` tags, and the tags in the column's format."""
    tags = [f"{id}:{weight}" if weight else id for id, weight in _TAG.findall(prompt)]
    return (_TAG.sub("", prompt).strip(), tags) if tags else (prompt, tags)


def split_loras(canonical: str) -> list[tuple[str, float]]:
    """Return the ids and weights of a canonical value of `read_loras`."""
    parts = (part.rpartition(":") for part in canonical.split("+") if part)
    return [(id, float(weight)) for id, _, weight in parts]


def check_form(value: object, rules: RowRules) -> None:
    """Raise ProblemError for a value that is invalid with every model."""
    if not missing(value):
        for part in free_text("lora", value, _MAX_TEXT).split("+"):
            _part(part, rules)


def _part(part: str, rules: RowRules) -> tuple[LoraRules, float]:
    name, colon, weight = part.strip().partition(":")
    lora = rules.loras.get(name.strip().lower())
    if lora is None:
        hint = did_you_mean(name, rules.loras.keys()) if rules.loras else "the catalogue has none"
        raise ProblemError("lora", f"unknown LoRA {shown(name)}; {hint}")
    return lora, _weight(lora.id, weight) if colon else 1.0


def _weight(id: str, text: str) -> float:
    try:
        weight = decimal_number("lora", text, -_MAX_WEIGHT, _MAX_WEIGHT)
    except ProblemError:
        weight = 0.0
    if abs(weight) < 1e-6:
        raise ProblemError(
            "lora", f"the weight of LoRA {id!r} must be -2 to 2 and not 0, as in {id}:0.8, not {shown(text)}"
        )
    return weight


def _misfit(lora: LoraRules, model: ModelRules) -> str:
    fits = (
        f"models that it fits: {some_of(sorted(lora.fits), 10)}"
        if lora.fits
        else "no model here has that base"
    )
    return f"LoRA {lora.id!r} was made for {lora.base!r} and doesn't fit model {model.id!r}; {fits}"
