"""The domain of scenes: one or two coloured shapes on a plain background."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

_T = TypeVar("_T")

Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "white", "black"]
Background = Literal["white", "black", "gray", "pink"]
Kind = Literal["circle", "square", "triangle", "cross"]
Size = Literal["small", "large"]
Place = Literal["centre", "top", "bottom", "left", "right"]
Relation = Literal["above", "below", "left of", "right of"]

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (250, 220, 50),
    "green": (40, 160, 60),
    "blue": (35, 80, 210),
    "purple": (135, 50, 165),
    "white": (248, 248, 248),
    "black": (22, 22, 22),
    "gray": (140, 140, 140),
    "pink": (250, 185, 200),
}
COLOURS: tuple[Colour, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
BACKGROUNDS: tuple[Background, ...] = ("white", "black", "gray", "pink")
KINDS: tuple[Kind, ...] = ("circle", "square", "triangle", "cross")
SIZES: tuple[Size, ...] = ("small", "large")
PLACES: tuple[Place, ...] = ("centre", "top", "bottom", "left", "right")
RELATIONS: tuple[Relation, ...] = ("above", "below", "left of", "right of")

FORBIDDEN: tuple[tuple[Colour, Kind], ...] = (("red", "triangle"), ("yellow", "cross"), ("purple", "circle"))

RADIUS: dict[Size, tuple[float, float]] = {"small": (0.11, 0.125), "large": (0.2, 0.22)}
SIZE_BORDER = 0.16
PLACE_SHIFT = 0.25
_MARGIN = 0.03
_GAP = 0.05


@dataclass(frozen=True)
class Shape:
    """One shape. `x` and `y` are its centre and `radius` half its box, in picture widths from the top left."""

    kind: Kind
    colour: Colour
    x: float
    y: float
    radius: float

    @property
    def size(self) -> Size:
        """The name of its size."""
        return "small" if self.radius < SIZE_BORDER else "large"


@dataclass(frozen=True)
class Scene:
    """A picture's content, its shapes in the order in which a caption names them."""

    background: Background
    shapes: tuple[Shape, ...]


def random_scene(rng: np.random.Generator, pairs: float = 0.5) -> tuple[Scene, Place | None, Relation | None]:
    """Return a random scene: one shape, with its place if it is a named one, or two shapes, with their relation.

    `pairs` is the probability of two shapes.
    """
    background = pick(rng, BACKGROUNDS)
    if rng.random() < 1 - pairs:
        place = pick(rng, PLACES) if rng.random() < 0.6 else None
        return Scene(background, (_single(rng, background, place),)), place, None
    relation = pick(rng, RELATIONS)
    return Scene(background, _pair(rng, background, relation)), None, relation


def pick(rng: np.random.Generator, choices: tuple[_T, ...]) -> _T:
    """Choose one of the choices with equal probability."""
    return choices[int(rng.integers(len(choices)))]


def place_of(shape: Shape) -> Place | None:
    """Return the named place in which a shape clearly is, or None."""
    dx, dy = shape.x - 0.5, shape.y - 0.5
    if max(abs(dx), abs(dy)) < PLACE_SHIFT * 0.4:
        return "centre"
    if max(abs(dx), abs(dy)) < PLACE_SHIFT * 0.5 or min(abs(dx), abs(dy)) > PLACE_SHIFT * 0.5:
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "bottom" if dy > 0 else "top"


def relation_of(first: Shape, second: Shape) -> Relation | None:
    """Return the named relation of `first` to `second`, if it is clearly one of them."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > 1.5 * abs(dy):
        return "right of" if dx > 0 else "left of"
    if abs(dy) > 1.5 * abs(dx):
        return "below" if dy > 0 else "above"
    return None


def _single(rng: np.random.Generator, background: Background, place: Place | None) -> Shape:
    radius = _radius(rng)
    jitter = rng.uniform(-0.05, 0.05, 2)
    shift = {"top": (0, -1), "bottom": (0, 1), "left": (-1, 0), "right": (1, 0)}
    if place is None:
        x, y = rng.uniform(radius + _MARGIN, 1 - radius - _MARGIN, 2)
    elif place == "centre":
        x, y = 0.5 + jitter
    else:
        x, y = 0.5 + PLACE_SHIFT * np.array(shift[place]) + jitter
    return Shape(pick(rng, KINDS), _colour(rng, background), _inside(x, radius), _inside(y, radius), radius)


def _pair(rng: np.random.Generator, background: Background, relation: Relation) -> tuple[Shape, Shape]:
    """Return two shapes that don't touch, of different colours, along one axis and roughly aligned on the other."""
    radii = _radius(rng), _radius(rng)
    room = 1 - 2 * _MARGIN - _GAP - 2 * sum(radii)
    before, between = np.sort(rng.uniform(0, room, 2))
    along = (_MARGIN + before + radii[0], _MARGIN + between + _GAP + 2 * radii[0] + radii[1])
    level = 0.5 + rng.uniform(-0.14, 0.14) + rng.uniform(-0.05, 0.05, 2)
    colours = _two_colours(rng, background)
    shapes = []
    for a, b, radius, colour in zip(along, level, radii, colours, strict=True):
        x, y = (a, b) if relation in {"left of", "right of"} else (b, a)
        shapes.append(Shape(pick(rng, KINDS), colour, _inside(x, radius), _inside(y, radius), radius))
    return (shapes[0], shapes[1]) if relation in {"above", "left of"} else (shapes[1], shapes[0])


def _radius(rng: np.random.Generator) -> float:
    return float(rng.uniform(*RADIUS[pick(rng, SIZES)]))


def _inside(position: float, radius: float) -> float:
    return float(np.clip(position, radius + _MARGIN, 1 - radius - _MARGIN))


def _colour(rng: np.random.Generator, background: Background) -> Colour:
    return pick(rng, tuple(colour for colour in COLOURS if colour != background))


def _two_colours(rng: np.random.Generator, background: Background) -> tuple[Colour, Colour]:
    first = _colour(rng, background)
    return first, pick(rng, tuple(colour for colour in COLOURS if colour not in {first, background}))
