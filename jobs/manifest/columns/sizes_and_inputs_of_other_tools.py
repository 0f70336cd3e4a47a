"""Columns of other tools that stand for known columns, recognised by their name and values."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.manifest.columns.spelling import plain_name
from jobs.manifest.values import ProblemError, missing, shown

_SIZES = frozenset({"size", "resolution", "imagesize", "imagedimensions", "dimensions"})
_RATIOS = frozenset({"aspectratio", "ar"})
_SIDES = {"w": "width", "h": "height"}
_PICTURES = {"image": "init_image", "mask": "mask_image", "controlimage": "depth_image"}
_COUNT = "n"
"""OpenAI's number of images. By its values it can't be told from a column of one's own: `n` of 1 to 4 is either."""
_SIZE = re.compile(r"\s*([0-9]{1,5})\s*[xX×*]\s*([0-9]{1,5})\s*")
_SIDE = re.compile(r"[0-9]{2,5}(?:\.0)?")
_RATIO = re.compile(r"\s*[0-9]+\s*:\s*[0-9]+\s*")


def watched_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` whose values `translated` has to check."""
    watched = _SIZES | _RATIOS | _PICTURES.keys() | _SIDES.keys() | {_COUNT}
    return tuple(name for name in names if plain_name(name) in watched)


def translated(values: Mapping[str, Any], watched: Sequence[str]) -> Mapping[str, Any]:
    """Replace a size such as "512x768" (OpenAI, A1111, Replicate) by width and height; without one, return `values`.

    Raises ProblemError for an input image, size, aspect ratio or image count in an unknown column, which would be
    ignored silently.
    """
    for name in watched:
        value, plain = values[name], plain_name(name)
        if name.strip().lower() == _COUNT:
            raise _unknown(name, "'num_images'")
        if missing(value):
            continue
        if plain in _PICTURES and isinstance(value, str):
            raise _unknown(name, repr(_PICTURES[plain]))
        if plain in _RATIOS and isinstance(value, str) and _RATIO.fullmatch(value):
            raise _unknown(name, "'width' and 'height'")
        size = _SIZE.fullmatch(value) if plain in _SIZES and isinstance(value, str) else None
        if size is not None:
            return _with_size(values, name, int(size[1]), int(size[2]))
        if plain in _SIZES - {"size"} and isinstance(value, int | float):
            raise _unknown(name, "'width' and 'height'")
        if plain in _SIDES and _SIDE.fullmatch(str(value)):
            raise _unknown(name, repr(_SIDES[plain]))
    return values


def _with_size(values: Mapping[str, Any], name: str, width: int, height: int) -> dict[str, Any]:
    sized = {key: value for key, value in values.items() if key != name}
    given = {key.strip().lower(): key for key in sized}
    for column, pixels in (("width", width), ("height", height)):
        key = given.get(column, column)
        if not missing(sized.get(key)) and str(sized[key]) != str(pixels):
            raise ProblemError(
                name, f"{name} says {shown(values[name])}, and {key} says {shown(sized[key])}; keep one"
            )
        sized[key] = pixels
    return sized


def _unknown(name: str, meant: str) -> ProblemError:
    return ProblemError(
        name, f"column {shown(name)} is not known; did you mean {meant}? {WAYS_OUT.format(name)}"
    )


WAYS_OUT = "Rename it in the file, or leave it out with --drop {}"
