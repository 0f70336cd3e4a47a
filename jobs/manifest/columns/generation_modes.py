"""What a row's picture is made from: derived from the model and the pictures given, and what follows from it."""

from typing import NamedTuple

from jobs.manifest.types import ModelRules, RowRules
from jobs.manifest.values import ProblemError, decimal_number, missing, whole_number
from jobs.states import Mode

_NEEDS = {
    Mode.TEXT2IMAGE: "leave the pictures out",
    Mode.IMAGE2IMAGE: "give an init_image",
    Mode.INPAINT: "give an init_image and a mask_image",
    Mode.DEPTH: "give an init_image or a depth_image",
    Mode.UPSCALE: "give an init_image",
}


class Pictures(NamedTuple):
    """Which pictures a row has."""

    init: bool
    mask: bool
    depth: bool


def find_mode(model: ModelRules, given: Pictures, rules: RowRules) -> Mode:
    """The mode of a row; ProblemError where a picture is missing, is one too many, or the model doesn't serve it."""
    if Mode.UPSCALE in model.modes:
        return _upscaling(model, given)
    if given.mask and not given.init:
        raise ProblemError("mask_image", "mask_image needs an init_image to lie on")
    if given.mask and given.depth:
        raise ProblemError("depth_image", "a row takes a mask_image or a depth_image, not both")
    mode = _wanted(model, given)
    if mode not in model.modes:
        raise ProblemError(_column(given), _not_served(mode, model, rules))
    if mode == Mode.DEPTH and not given.init and not given.depth:
        raise ProblemError("init_image", f"{_serves(model)}; {_NEEDS[mode]}")
    return mode


def read_strength(value: object, mode: Mode, model: ModelRules, init: bool) -> float | None:
    """How far from the init_image, above 0 and at most 1; None where there is none to start from."""
    is_used = init and mode != Mode.UPSCALE
    if missing(value):
        return (1.0 if mode == Mode.INPAINT else model.strength) if is_used else None
    strength = check_strength(value)
    if mode == Mode.UPSCALE:
        raise ProblemError("strength", "an upscaler takes no strength; noise_level says how much it invents")
    if not is_used:
        raise ProblemError("strength", "strength needs an init_image; add one or leave strength empty")
    return strength


def check_strength(value: object) -> float:
    """A strength of any row."""
    strength = decimal_number("strength", value, 0, 1)
    if strength == 0:
        raise ProblemError("strength", "strength must be above 0 to 1; at 0 nothing is drawn")
    return strength


def read_upscale(value: object, mode: Mode, model: ModelRules) -> int:
    """0 or 4."""
    if mode == Mode.UPSCALE:
        if missing(value) or check_upscale(value):
            return 4
        raise ProblemError("upscale", f"model {model.id!r} enlarges by 4; leave upscale empty")
    factor = check_upscale(value)
    if factor and factor not in model.upscales:
        raise ProblemError("upscale", f"model {model.id!r} has no {factor}x upscaler; leave upscale at 0")
    return factor


def check_upscale(value: object) -> int:
    """An upscale factor of any row: 0, also for 1 and nothing, or 4."""
    factor = 0 if missing(value) else whole_number("upscale", value, 0, 4)
    if factor not in {0, 1, 4}:
        raise ProblemError("upscale", f"upscale must be 0 (none) or 4, not {factor}")
    return 0 if factor == 1 else factor


def read_noise_level(value: object, upscale: int, model: ModelRules) -> int | None:
    """How much noise the upscaler puts on what it enlarges; None where nothing is enlarged."""
    if missing(value):
        return model.noise_level if upscale else None
    level = whole_number("noise_level", value, 0, model.noise_level_max)
    if not upscale:
        raise ProblemError("noise_level", "noise_level is the upscaler's; set upscale to 4 or leave it empty")
    return level


def _upscaling(model: ModelRules, given: Pictures) -> Mode:
    if not given.init:
        raise ProblemError("init_image", f"model {model.id!r} enlarges pictures; give an init_image")
    for column, is_given in (("mask_image", given.mask), ("depth_image", given.depth)):
        if is_given:
            raise ProblemError(column, f"model {model.id!r} enlarges pictures; leave {column} out")
    return Mode.UPSCALE


def _wanted(model: ModelRules, given: Pictures) -> Mode:
    if given.mask:
        return Mode.INPAINT
    if given.depth or model.modes == {Mode.DEPTH}:
        return Mode.DEPTH
    return Mode.IMAGE2IMAGE if given.init else Mode.TEXT2IMAGE


def _column(given: Pictures) -> str:
    if given.mask:
        return "mask_image"
    return "depth_image" if given.depth else "init_image"


def _serves(model: ModelRules) -> str:
    return f"model {model.id!r} serves {', '.join(sorted(model.modes))} only"


def _not_served(mode: Mode, model: ModelRules, rules: RowRules) -> str:
    others = sorted({other.id for other in rules.models.values() if mode in other.modes})
    hint = f"{mode} is served by {', '.join(others[:10])}" if others else f"no model here serves {mode}"
    needs = next(needs for served, needs in _NEEDS.items() if served in model.modes)
    return f"{_serves(model)}; {needs}, or choose another: {hint}"
