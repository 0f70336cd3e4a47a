"""Measure how well perceptual hashes tell copies of a picture from other pictures, where truth is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import hypot

import cv2
import numpy as np
import numpy.typing as npt

from models.assess.perceptual_hash import perceptual_hash
from models.shapes.reading import read
from models.shapes.world import Scene, Shape

Pixels = npt.NDArray[np.uint8]

_SAME_PLACE = 2 / 64
"""Centres of shapes that are nearer than this, in picture widths, are at the same place."""


def _encoded(extension: str, option: int, quality: int) -> Callable[[Pixels], Pixels]:
    def copy(pixels: Pixels) -> Pixels:
        _, file = cv2.imencode(extension, pixels, [option, quality])
        return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)

    return copy


def _scaled(factor: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(
        cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8
    )


def _brightened(gain: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.clip(pixels * gain, 0, 255).astype(np.uint8)


COPIES: Mapping[str, Callable[[Pixels], Pixels]] = {
    "jpeg_90": _encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 90),
    "jpeg_50": _encoded(".jpg", cv2.IMWRITE_JPEG_QUALITY, 50),
    "webp_80": _encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "brighter": _brightened(1.1),
    "darker": _brightened(0.9),
    "half_size": _scaled(0.5),
    "double_size": _scaled(2),
}
"""How a picture is changed and still is the same picture."""


@dataclass(frozen=True)
class NearCopies:
    """How many are within the distance: `found` is the share of a picture's copies, by the kind of copy.

    `other_seeds` is the share of pairs of one prompt in which geometry sees the shapes at other places or sees others,
    `other_prompts` that of pairs of different prompts.
    """

    found: dict[str, float]
    other_seeds: float
    other_prompts: float


def near_copies(pictures: Sequence[Sequence[Pixels]], distance: int) -> NearCopies:
    """Hash pictures, given by prompt, and copies of them, and compare."""
    hashes = [[_hash(picture) for picture in of_prompt] for of_prompt in pictures]
    every = list(zip(chain.from_iterable(pictures), chain.from_iterable(hashes), strict=True))
    found = {
        name: _share([(own ^ _hash(copy(picture))).bit_count() <= distance for picture, own in every])
        for name, copy in COPIES.items()
    }
    scenes = [[read(picture) for picture in of_prompt] for of_prompt in pictures]
    other_seeds = [
        (one ^ other).bit_count() <= distance
        for of_prompt, seen in zip(hashes, scenes, strict=True)
        for (one, first), (other, second) in combinations(zip(of_prompt, seen, strict=True), 2)
        if not _shows_the_same(first, second)
    ]
    other_prompts = [
        (one ^ other).bit_count() <= distance
        for these, those in combinations(hashes, 2)
        for one in these
        for other in those
    ]
    return NearCopies(found, _share(other_seeds), _share(other_prompts))


def _share(near: Sequence[bool]) -> float:
    return sum(near) / max(1, len(near))


def _hash(picture: Pixels) -> int:
    return int(perceptual_hash(picture), 16)


def _shows_the_same(first: Scene | None, second: Scene | None) -> bool:
    """Whether both show the same shapes at the same places; False for an unclear picture."""
    if first is None or second is None or first.background != second.background:
        return False
    if len(first.shapes) != len(second.shapes):
        return False
    pairs = zip(sorted(first.shapes, key=_order), sorted(second.shapes, key=_order), strict=True)
    return all(_order(one) == _order(other) and _is_near(one, other) for one, other in pairs)


def _order(shape: Shape) -> tuple[str, str, str]:
    return shape.kind, shape.colour, shape.size


def _is_near(one: Shape, other: Shape) -> bool:
    return hypot(one.x - other.x, one.y - other.y) <= _SAME_PLACE
