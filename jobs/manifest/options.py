"""The columns that say how a row is rendered: read, defaulted by the model, checked against it."""

from collections.abc import Callable, Mapping
from typing import Any

from jobs.errors import UsageError
from jobs.manifest.columns import did_you_mean
from jobs.manifest.records import SEED_SPACE, ModelRules, RowRules
from jobs.manifest.values import ProblemError, decimal_number, free_text, missing, shown, whole_number

MAX_PROMPT = 10_000
MAX_ID = 500
MAX_TENANT = 100
MAX_LOCATION = 2_000

OPTION_COLUMNS = (
    "model",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "sampler",
    "num_images",
    "strength",
    "upscale",
    "noise_level",
)


def _negative_prompt(value: object) -> str:
    return "" if value is None else free_text("negative_prompt", value, MAX_PROMPT)


def _optional_text(column: str, limit: int) -> Callable[[object], str | None]:
    def read(value: object) -> str | None:
        if type(value) is str and len(value) <= limit and value and not value.isspace():
            return value
        return None if missing(value) else free_text(column, value, limit)

    return read


def _seed(value: object) -> int | None:
    return None if missing(value) else whole_number("seed", value, 0, SEED_SPACE - 1)


FREE_COLUMNS: Mapping[str, Callable[[object], Any]] = {
    "id": _optional_text("id", MAX_ID),
    "negative_prompt": _negative_prompt,
    "seed": _seed,
    "init_image": _optional_text("init_image", MAX_LOCATION),
    "mask_image": _optional_text("mask_image", MAX_LOCATION),
    "tenant": _optional_text("tenant", MAX_TENANT),
}


def read_options(given: Mapping[str, object], rules: RowRules, init: bool, mask: bool) -> dict[str, Any]:
    """The OPTION_COLUMNS of a row as Row fields; ProblemError names the column that can't be.

    `init` and `mask` say whether the row has an init_image and a mask_image.
    """
    model = find_model(given.get("model"), rules)
    upscale = _upscale(given.get("upscale"), model)
    _check_mode(model, init, mask)
    return {
        "model": model.id,
        "width": _side("width", given.get("width"), model.width, model),
        "height": _side("height", given.get("height"), model.height, model),
        "steps": _whole("steps", given.get("steps"), 1, 1000, model.steps),
        "guidance_scale": _guidance_scale(given.get("guidance_scale"), model.guidance_scale),
        "sampler": _sampler(given.get("sampler"), model),
        "num_images": _whole("num_images", given.get("num_images"), 1, 100_000, 1),
        "strength": _strength(given.get("strength"), init),
        "upscale": upscale,
        "noise_level": _noise_level(given.get("noise_level"), upscale, model),
    }


def find_model(value: object, rules: RowRules) -> ModelRules:
    """The rules of the model that a row names, by id or alias; case is forgiven."""
    if missing(value):
        value = rules.default_model
    name = free_text("model", value, 200).strip()
    found = rules.models.get(name)
    if found is None:
        found = next((model for key, model in rules.models.items() if key.lower() == name.lower()), None)
    if found is None:
        raise ProblemError("model", f"unknown model {shown(name)}; {did_you_mean(name, rules.models.keys())}")
    return found


def check_overrides(rules: RowRules) -> None:
    """Raise UsageError for an override that no row could take, so that it isn't a million rejects."""
    checks: dict[str, Callable[[object], object]] = {
        **FREE_COLUMNS,
        "model": lambda value: find_model(value, rules),
        "steps": lambda value: _whole("steps", value, 1, 1000, 1),
        "guidance_scale": lambda value: _guidance_scale(value, 0),
        "num_images": lambda value: _whole("num_images", value, 1, 100_000, 1),
        "strength": lambda value: _strength(value, init=True),
        "width": lambda value: _whole("width", value, 1, 100_000, 1),
        "height": lambda value: _whole("height", value, 1, 100_000, 1),
        "upscale": _upscale_factor,
        "noise_level": lambda value: _whole("noise_level", value, 0, 100_000, 0),
    }
    for column, text in rules.overrides.items():
        try:
            checks.get(column, str)(text)
        except ProblemError as error:
            raise UsageError(f"--set {column}={text}: {error.reason}") from None


def _whole(column: str, value: object, low: int, high: int, default: int) -> int:
    return default if missing(value) else whole_number(column, value, low, high)


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


def _sampler(value: object, model: ModelRules) -> str:
    if missing(value):
        return model.sampler
    name = free_text("sampler", value, 200).strip()
    plain = _plain(name)
    found = next((sampler for sampler in model.samplers if _plain(sampler) == plain), None)
    if found is None:
        raise ProblemError("sampler", f"unknown sampler {shown(name)}; {did_you_mean(name, model.samplers)}")
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _strength(value: object, init: bool) -> float | None:
    if missing(value):
        return None
    strength = decimal_number("strength", value, 0, 1)
    if not init:
        raise ProblemError("strength", "strength needs an init_image; add one or leave strength empty")
    return strength


def _upscale_factor(value: object) -> int:
    factor = _whole("upscale", value, 0, 4, 0)
    if factor not in {0, 1, 4}:
        raise ProblemError("upscale", f"upscale must be 0 (none) or 4, not {factor}")
    return 0 if factor == 1 else factor


def _upscale(value: object, model: ModelRules) -> int:
    factor = _upscale_factor(value)
    if factor and factor not in model.upscales:
        raise ProblemError("upscale", f"model {model.id!r} has no {factor}x upscaler; leave upscale at 0")
    return factor


def _noise_level(value: object, upscale: int, model: ModelRules) -> int | None:
    if missing(value):
        return None
    level = whole_number("noise_level", value, 0, model.noise_level_max)
    if not upscale:
        raise ProblemError("noise_level", "noise_level is the upscaler's; set upscale to 4 or leave it empty")
    return level


def _check_mode(model: ModelRules, init: bool, mask: bool) -> None:
    if mask and not init:
        raise ProblemError("mask_image", "mask_image needs an init_image to lie on")
    serves = f"model {model.id!r} serves {', '.join(sorted(model.modes))} only"
    if mask and "inpaint" not in model.modes:
        raise ProblemError("mask_image", f"{serves}; choose one that serves inpaint or leave out mask_image")
    if init and not mask and not model.modes - {"text2image", "inpaint"}:
        raise ProblemError("init_image", f"{serves}; choose one that takes an init_image or leave it out")
    if not init and "text2image" not in model.modes:
        raise ProblemError("init_image", f"{serves}; give an init_image")
