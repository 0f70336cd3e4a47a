"""Derive a row's generation mode from its model and input images, and read the columns that depend on the mode."""

from typing import NamedTuple

from jobs.manifest.types import ModelRules, RowRules
from jobs.manifest.values import ProblemError, decimal_number, missing, whole_number
from jobs.states import Mode
from jobs.suggest_names_and_shorten_lists import some_of

_NEEDS = {
    Mode.TEXT2IMAGE: "leave the pictures out",
    Mode.IMAGE2IMAGE: "give an init_image",
    Mode.INPAINT: "give an init_image and a mask_image",
    Mode.DEPTH: "give an init_image or a depth_image",
    Mode.UPSCALE: "give an init_image",
}


class Pictures(NamedTuple):
    """Which input images a row has."""

    init: bool
    mask: bool
    depth: bool


def find_mode(model: ModelRules, given: Pictures, rules: RowRules) -> Mode:
    """Return the mode of a row; ProblemError if an input image is missing or unexpected, or the model can't do it."""
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
    """Parse the strength (distance from the init_image), above 0 and at most 1; None if there is no init_image."""
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
    """Parse a strength independently of the row's mode: above 0, at most 1."""
    strength = decimal_number("strength", value, 0, 1)
    if strength == 0:
        raise ProblemError("strength", "strength must be above 0 to 1; at 0 nothing is drawn")
    return strength


def read_upscale(value: object, mode: Mode, model: ModelRules) -> int:
    """Parse the upscale factor and check it against the model; returns 0 or 4."""
    if mode == Mode.UPSCALE:
        if missing(value) or check_upscale(value):
            return 4
        raise ProblemError("upscale", f"model {model.id!r} enlarges by 4; leave upscale empty")
    factor = check_upscale(value)
    if factor and factor not in model.upscales:
        raise ProblemError("upscale", f"model {model.id!r} has no {factor}x upscaler; leave upscale at 0")
    return factor


def check_upscale(value: object) -> int:
    """Parse an upscale factor independently of the model: 0 (also for 1 and no value) or 4."""
    factor = 0 if missing(value) else whole_number("upscale", value, 0, 4)
    if factor not in {0, 1, 4}:
        raise ProblemError("upscale", f"upscale must be 0 (none) or 4, not {factor}")
    return 0 if factor == 1 else factor


def read_noise_level(value: object, upscale: int, model: ModelRules) -> int | None:
    """Parse the noise level that the upscaler adds to its input; None if the row isn't upscaled."""
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
    hint = f"{mode} is served by {some_of(others, 10)}" if others else f"no model here serves {mode}"
    needs = next(needs for served, needs in _NEEDS.items() if served in model.modes)
    return f"{_serves(model)}; {needs}, or choose another: {hint}"
