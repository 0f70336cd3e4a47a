"""Random training data: pictures with true captions, and captions with one wrong word."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.shapes.drawing import draw
from models.shapes.grammar import caption
from models.shapes.world import BACKGROUNDS, COLOURS, KINDS, SIZES, Scene, pick, random_scene

_OPPOSITE = {
    "above": "below",
    "below": "above",
    "over": "under",
    "under": "over",
    "left": "right",
    "right": "left",
    "top": "bottom",
    "bottom": "top",
}
_CLASSES: tuple[tuple[str, ...], ...] = (COLOURS, KINDS, SIZES)


@dataclass(frozen=True)
class Samples:
    """N scenes, their pictures (N, side, side, 3) uint8 and a caption each."""

    scenes: list[Scene]
    pixels: npt.NDArray[np.uint8]
    captions: list[str]


def sample(rng: np.random.Generator, rows: int, detail: float = 0.75) -> Samples:
    """Generate random scenes, drawn at 64 pixels."""
    drawn = [random_scene(rng) for _ in range(rows)]
    captions = [caption(*said, rng, detail) for said in drawn]
    return Samples(
        [scene for scene, _, _ in drawn], np.stack([draw(scene) for scene, _, _ in drawn]), captions
    )


def pictures(rng: np.random.Generator, rows: int) -> npt.NDArray[np.uint8]:
    """Generate pictures (rows, 64, 64, 3) uint8 only."""
    return np.stack([draw(random_scene(rng)[0]) for _ in range(rows)])


def weights_of(scenes: list[Scene]) -> npt.NDArray[np.float32]:
    """Return loss weights of the pixels of 64-pixel pictures (N, 64, 64), with mean 1.

    A quarter of the weight is spread over the whole picture, the rest over the surroundings of shapes, equally for
    small and large ones.
    """
    return np.stack([_weights(scene) for scene in scenes])


def _weights(scene: Scene, side: int = 64) -> npt.NDArray[np.float32]:
    weights = np.full((side, side), 0.25, np.float32)
    for shape in scene.shapes:
        rows, columns = (
            slice(max(0, int((middle - shape.radius) * side) - 2), int((middle + shape.radius) * side) + 3)
            for middle in (shape.y, shape.x)
        )
        near = weights[rows, columns]
        near += 0.75 * side**2 / near.size / len(scene.shapes)
    return weights


def crops(rng: np.random.Generator, rows: int, side: int = 64) -> npt.NDArray[np.uint8]:
    """Return crops (rows, side, side, 3) uint8 of 256-pixel pictures, on a grid of 4 pixels, most with an edge."""
    found: list[Any] = []
    while len(found) < rows:
        picture = draw(random_scene(rng)[0], 256)
        for _ in range(2):
            y, x = rng.integers(0, (256 - side) // 4 + 1, 2) * 4
            crop = picture[y : y + side, x : x + side]
            if np.ptp(crop) > 40 or rng.random() < 0.15:
                found.append(crop)
    return np.stack(found[:rows])


def wrong(text: str, rng: np.random.Generator) -> str:
    """Change one word of the caption so that it is no longer true."""
    words = text.replace(",", " ,").split()
    places = [place for place, word in enumerate(words) if _others(word, words, place)]
    place = places[int(rng.integers(len(places)))]
    words[place] = pick(rng, _others(words[place], words, place))
    return " ".join(words).replace(" ,", ",")


def _others(word: str, words: list[str], place: int) -> tuple[str, ...]:
    if word in _OPPOSITE and words[place + 1 : place + 2] != ["background"]:
        return (_OPPOSITE[word],) if words[max(0, place - 1)] != "on" or word != "top" else ()
    group: tuple[str, ...] = ()
    if words[place + 1 : place + 2] == ["background"]:
        group = BACKGROUNDS
    else:
        group = next((known for known in _CLASSES if word in known), ())
    return tuple(other for other in group if other != word)
