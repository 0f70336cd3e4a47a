"""Option columns, which control how a row is rendered: parsed, defaulted by the model and checked against it."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jobs.errors import UsageError
from jobs.manifest.columns.header import did_you_mean
from jobs.manifest.columns.loras import check_form, read_loras
from jobs.manifest.columns.mode_and_its_columns import (
    Pictures,
    check_strength,
    check_upscale,
    find_mode,
    read_noise_level,
    read_strength,
    read_upscale,
)
from jobs.manifest.types import SEED_SPACE, ModelRules, RowRules
from jobs.manifest.values import ProblemError, decimal_number, free_text, missing, shown, whole_number
from jobs.states import EVERYBODY, LEAST_TILED_SIDE, Mode

MAX_PROMPT = 10_000
MAX_ID = 500
MAX_TENANT = 100

OPTION_COLUMNS = (
    "model",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "sampler",
    "num_images",
    "strength",
    "lora",
    "upscale",
    "noise_level",
)


def _negative_prompt(value: object) -> str:
    return "" if value is None else free_text("negative_prompt", value, MAX_PROMPT)


def _optional_text(column: str, limit: int) -> Callable[[object], str | None]:
    def read(value: object) -> str | None:
        return None if missing(value) else free_text(column, value, limit)

    return read


def _tenant(value: object) -> str | None:
    name = None if missing(value) else free_text("tenant", value, MAX_TENANT)
    if name is not None and name.strip() == EVERYBODY:
        raise ProblemError(
            "tenant", f"a tenant can't be called {EVERYBODY}, which stands for all of them; use another name"
        )
    return name


def _seed(value: object) -> int | None:
    return None if missing(value) else whole_number("seed", value, 0, SEED_SPACE - 1)


FREE_COLUMNS: Mapping[str, Callable[[object], Any]] = {
    "id": _optional_text("id", MAX_ID),
    "negative_prompt": _negative_prompt,
    "seed": _seed,
    "tenant": _tenant,
}

# Non-blank text up to this length is taken unchanged, without a call of the column's parser.
PLAIN_LENGTHS: Mapping[str, int] = {
    "prompt": MAX_PROMPT,
    "id": MAX_ID,
    "negative_prompt": MAX_PROMPT,
}


def read_options(given: Mapping[str, object], rules: RowRules, pictures: Pictures) -> dict[str, Any]:
    """Parse the OPTION_COLUMNS of a row into Row fields, including its mode; ProblemError names the invalid column."""
    model = find_model(given.get("model"), rules)
    if rules.needs_clip and not model.has_clip:
        raise ProblemError(
            "model", f"clip_score=on, and model {model.id!r} names no CLIP; use clip_score=auto"
        )
    if rules.needs_decoder and not model.has_decoder:
        raise ProblemError(
            "model", f"decoder=tiny, and model {model.id!r} names no small decoder; use decoder=full"
        )
    mode = find_mode(model, pictures, rules)
    upscale = read_upscale(given.get("upscale"), mode, model)
    width, height = _size(given, mode, model)
    if rules.needs_tiled_mark:
        _check_can_have_tiled_mark(width * (upscale or 1), height * (upscale or 1))
    steps = _whole("steps", given.get("steps"), 1, 1000, model.steps)
    strength = read_strength(given.get("strength"), mode, model, pictures.init)
    if strength is not None and int(steps * strength) < 1:
        raise ProblemError(
            "strength", f"strength {strength:g} of {steps} steps leaves none to take; raise one"
        )
    return {
        "model": model.id,
        "has_default_model": missing(given.get("model")),
        "mode": mode.value,
        "lora": read_loras(given.get("lora"), model, rules),
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": _guidance_scale(given.get("guidance_scale"), model.guidance_scale),
        "sampler": _sampler(given.get("sampler"), model, rules),
        "num_images": _whole("num_images", given.get("num_images"), 1, 100_000, 1),
        "strength": strength,
        "upscale": upscale,
        "noise_level": read_noise_level(given.get("noise_level"), upscale, model),
    }


def _check_can_have_tiled_mark(width: int, height: int) -> None:
    """Raise ProblemError if a picture of this size gets no tiled mark; 0 x 0 is a size that isn't known yet."""
    side = LEAST_TILED_SIDE
    if 0 < width * height < side**2:
        why = f"marks of pictures of less than {side**2:,} pixels aren't strong, and this one has {width} x {height}"
        raise ProblemError("width", f"watermark=require-strong: {why}; use watermark=require")


def find_model(value: object, rules: RowRules) -> ModelRules:
    """Return the rules of the model that a row names by id or alias; upper and lower case are equivalent."""
    if missing(value):
        value = rules.default_model
    name = free_text("model", value, 200).strip()
    found = rules.models.get(name)
    if found is None:
        found = next((model for key, model in rules.models.items() if key.lower() == name.lower()), None)
    if found is None:
        raise ProblemError("model", f"unknown model {shown(name)}; {did_you_mean(name, rules.models.keys())}")
    return found


def check_overrides(
    rules: RowRules,
    pictures: Mapping[str, Callable[[object], Any]] = MappingProxyType({}),
    only_default: bool = False,
) -> None:
    """Raise UsageError for an override that is invalid for every row, which would otherwise reject all of them.

    `pictures` holds the parsers of the input image columns; `only_default`: rows can't name a model of their own.
    """
    checks = {**_checks(rules), **pictures}
    for column, text in rules.overrides.items():
        try:
            checks.get(column, str)(text)
        except ProblemError as error:
            raise UsageError(f"--set {column}={text}: {error.reason}") from None
    models = _models(rules, only_default)
    for column, text in rules.overrides.items():
        check = _MODEL_CHECKS.get(column)
        problems = [_problem(check, text, model, rules) for model in models] if check else []
        if problems and all(problems):
            raise UsageError(f"--set {column}={text}: {problems[0]}")


def _models(rules: RowRules, only_default: bool) -> list[ModelRules]:
    """Return the models that rows may use, the likeliest first."""
    first = find_model(rules.overrides.get("model"), rules)
    if only_default or not missing(rules.overrides.get("model")):
        return [first]
    return [first, *rules.models.values()]


def _problem(check: "_Check", text: str, model: ModelRules, rules: RowRules) -> str | None:
    try:
        check(text, model, rules)
    except ProblemError as error:
        return error.reason
    return None


def _checks(rules: RowRules) -> dict[str, Callable[[object], object]]:
    return {
        **FREE_COLUMNS,
        "model": lambda value: find_model(value, rules),
        "steps": lambda value: _whole("steps", value, 1, 1000, 1),
        "guidance_scale": lambda value: _guidance_scale(value, 0),
        "num_images": lambda value: _whole("num_images", value, 1, 100_000, 1),
        "strength": lambda value: missing(value) or check_strength(value),
        "lora": lambda value: check_form(value, rules),
        "width": lambda value: _whole("width", value, 1, 100_000, 1),
        "height": lambda value: _whole("height", value, 1, 100_000, 1),
        "upscale": check_upscale,
        "noise_level": lambda value: _whole("noise_level", value, 0, 100_000, 0),
    }


def _whole(column: str, value: object, low: int, high: int, default: int) -> int:
    return default if missing(value) else whole_number(column, value, low, high)


def _size(given: Mapping[str, object], mode: Mode, model: ModelRules) -> tuple[int, int]:
    width, height = given.get("width"), given.get("height")
    if mode == Mode.UPSCALE and missing(width) and missing(height):
        return 0, 0
    if mode == Mode.UPSCALE and (missing(width) or missing(height)):
        column = "width" if missing(width) else "height"
        raise ProblemError(column, "give width and height, or neither for the size that the picture has")
    return _side("width", width, model.width, model), _side("height", height, model.height, model)


def _side(column: str, value: object, default: int, model: ModelRules) -> int:
    side = _whole(column, value, model.min_size, model.max_size, default)
    step = model.size_multiple
    if missing(value) or side % step == 0:
        return side
    below = side - side % step
    near = [size for size in (below, below + step) if model.min_size <= size <= model.max_size]
    raise ProblemError(
        column, f"{column} must be a multiple of {step}, not {side}; nearest: {' or '.join(map(str, near))}"
    )


def _guidance_scale(value: object, default: float) -> float:
    return default if missing(value) else decimal_number("guidance_scale", value, 0, 50)


def _sampler(value: object, model: ModelRules, rules: RowRules) -> str:
    if missing(value):
        return model.sampler
    name = free_text("sampler", value, 200).strip()
    plain = plain_sampler(name)
    ours = rules.sampler_names.get(plain)
    found = next((sampler for sampler in model.samplers if plain_sampler(sampler) == plain), ours)
    if found in model.samplers:
        return str(found)
    if found is None:
        reason = f"unknown sampler {shown(name)}; {did_you_mean(name, model.samplers)}"
    elif not found:
        reason = f"there is no sampler {shown(name)} here; there are {', '.join(sorted(model.samplers))}"
    else:
        reason = f"model {model.id!r} has no sampler {found!r}; it has {', '.join(sorted(model.samplers))}"
    raise ProblemError("sampler", reason)


def plain_sampler(name: str) -> str:
    """Normalise a sampler's name: no case, separators, "k_", "sample_" or "Scheduler"; "pp" for "++"."""
    bare = re.sub(r"^(?:k|sample)[_ -]", "", name.strip().lower()).replace("++", "pp")
    return re.sub(r"[\s_.-]+", "", bare).removesuffix("scheduler")


_Check = Callable[[object, ModelRules, RowRules], object]
_MODEL_CHECKS: Mapping[str, _Check] = {
    "width": lambda value, model, _: _side("width", value, model.width, model),
    "height": lambda value, model, _: _side("height", value, model.height, model),
    "sampler": _sampler,
    "lora": read_loras,
    "upscale": lambda value, model, _: (
        Mode.UPSCALE in model.modes or read_upscale(value, Mode.TEXT2IMAGE, model)
    ),
}
