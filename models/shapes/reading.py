"""Read a picture by geometry: which shapes of which colours are where, from areas and outlines alone."""

import math
from collections.abc import Iterator

import cv2
import numpy as np

from models.shapes.drawing import ARM, Floats, Pixels, coverage
from models.shapes.world import BACKGROUNDS, COLOURS, KINDS, PALETTE, Background, Colour, Kind, Scene, Shape

_SIDE = 64
_LEAST_AREA = 24
_LEAST_LIKENESS = 0.75
_FAR = 60.0
_BOX_AREA: dict[Kind, float] = {
    "circle": math.pi,
    "square": 4.0,
    "triangle": 2.0,
    "cross": 4 * (2 * ARM - ARM**2),
}
_KERNEL = np.ones((3, 3), np.uint8)


def read(pixels: Pixels) -> Scene | None:
    """Return the scene that (H, W, 3) uint8 RGB pixels show, its shapes in no order; None if it is unclear.

    A shape is a blob of one palette colour whose outline overlaps that of an ideal shape by 75 % or more (intersection
    over union); any other blob makes the picture unclear.
    """
    picture = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    background = _background(picture)
    if background is None:
        return None
    shapes = [_shape(colour, cover) for colour, cover in _blobs(picture, background)]
    found = tuple(shape for shape in shapes if shape is not None)
    return Scene(background, found) if found and len(found) == len(shapes) else None


def _background(picture: Floats) -> Background | None:
    """Return the colour of most of the border, if it is a background colour."""
    border = np.concatenate(
        [picture[[0, 1, -2, -1]].reshape(-1, 3), picture[:, [0, 1, -2, -1]].reshape(-1, 3)]
    )
    nearest = np.bincount(_nearest(border, tuple(PALETTE)), minlength=len(PALETTE))
    name = tuple(PALETTE)[int(nearest.argmax())]
    is_plain = nearest.max() > 0.8 * len(border)
    return next((known for known in BACKGROUNDS if known == name and is_plain), None)


def _blobs(picture: Floats, background: Background) -> Iterator[tuple[Colour, Floats]]:
    """Yield the colour and coverage (64, 64) of each blob; one colour of many small specks counts as one blob.

    Where two colours meet, the pixels at the edge have intermediate colours: a blob must survive an erosion by one
    pixel.
    """
    ground = np.array(PALETTE[background], np.float32)
    apart = np.linalg.norm(picture - ground, axis=2) > _FAR
    names = (*COLOURS, background)
    nearest = _nearest(picture, names)
    for number, colour in enumerate(COLOURS):
        own = ((nearest == number) & apart).astype(np.uint8)
        if colour == background or cv2.erode(own, _KERNEL).sum() < 4:
            continue
        near = cv2.dilate(cv2.morphologyEx(own, cv2.MORPH_OPEN, _KERNEL), np.ones((5, 5), np.uint8))
        towards = np.array(PALETTE[colour], np.float32) - ground
        cover = np.clip((picture - ground) @ towards / (towards @ towards), 0, 1) * near
        yield from _parts(colour, cover)


def _parts(colour: Colour, cover: Floats) -> Iterator[tuple[Colour, Floats]]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats((cover > 0.5).astype(np.uint8), connectivity=8)
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] >= _LEAST_AREA:
            near = cv2.dilate((labels == number).astype(np.uint8), _KERNEL)
            yield colour, cover * near


def _shape(colour: Colour, cover: Floats) -> Shape | None:
    """Return the most similar ideal shape of the same area and centroid, or None if none is similar enough."""
    area = float(cover.sum()) / _SIDE**2
    steps = (np.arange(_SIDE, dtype=np.float32) + 0.5) / _SIDE
    x = float(cover.sum(axis=0) @ steps) / area / _SIDE**2
    y = float(cover.sum(axis=1) @ steps) / area / _SIDE**2
    ideals = [_ideal(kind, colour, x, y, area) for kind in KINDS]
    likeness = [_likeness(cover, coverage(one.kind, one.x, one.y, one.radius, _SIDE)) for one in ideals]
    best = int(np.argmax(likeness))
    return ideals[best] if likeness[best] >= _LEAST_LIKENESS else None


def _ideal(kind: Kind, colour: Colour, x: float, y: float, area: float) -> Shape:
    """Return a shape of this kind with this area (of a picture of area 1) and centroid."""
    radius = math.sqrt(area / _BOX_AREA[kind])
    return Shape(kind, colour, x, y - radius / 3 if kind == "triangle" else y, radius)


def _likeness(one: Floats, other: Floats) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


def _nearest(colours: Floats, names: tuple[str, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    palette = np.array([PALETTE[name] for name in names], np.float32)
    nearest: np.ndarray[tuple[int, ...], np.dtype[np.intp]] = np.linalg.norm(
        colours[..., None, :] - palette, axis=-1
    ).argmin(axis=-1)
    return nearest
