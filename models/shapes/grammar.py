"""The grammar of captions: describe scenes, and parse prompts into what they ask for."""

import re
from dataclasses import dataclass

import numpy as np

from models.shapes.world import BACKGROUNDS, COLOURS, KINDS, SIZES, Place, Relation, Scene, Shape, pick

_PLACE_WORDS: dict[Place, tuple[str, ...]] = {
    "centre": ("in the centre", "in the center", "in the middle"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "left": ("on the left",),
    "right": ("on the right",),
}
_RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "above": ("above", "on top of", "over"),
    "below": ("below", "under"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
}


def _either(words: tuple[str, ...]) -> str:
    return "|".join(words)


def _thing(number: int) -> str:
    return (
        rf"(?:an? |the )?(?:(?P<size{number}>{_either(SIZES)}) )?(?:(?P<colour{number}>{_either(COLOURS)}) )"
        rf"(?P<kind{number}>{_either(KINDS)})"
    )


_PHRASES = (*_PLACE_WORDS.values(), *_RELATION_WORDS.values())
_SENTENCE = " ".join(["a an the and , on background", *(words for group in _PHRASES for words in group)])
WORDS: tuple[str, ...] = tuple(dict.fromkeys([*SIZES, *COLOURS, *KINDS, *BACKGROUNDS, *_SENTENCE.split()]))
_PLACES = {words: place for place, group in _PLACE_WORDS.items() for words in group}
_RELATIONS = {words: relation for relation, group in _RELATION_WORDS.items() for words in group}
_PROMPT = re.compile(
    rf"{_thing(1)}(?: (?P<place>{_either(tuple(_PLACES))})"
    rf"| (?P<relation>{_either(tuple(_RELATIONS))}|and) {_thing(2)})?"
    rf"(?:,? on an? (?P<background>{_either(BACKGROUNDS)}) background)?"
)


@dataclass(frozen=True)
class Wanted:
    """One shape that a prompt asks for; None means unspecified."""

    kind: str
    colour: str
    size: str | None


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: one shape with a place, or two with a relation; None means unspecified."""

    shapes: tuple[Wanted, ...]
    place: Place | None
    relation: Relation | None
    background: str | None


def caption(
    scene: Scene, place: Place | None, relation: Relation | None, rng: np.random.Generator, detail: float
) -> str:
    """Return a random caption of the scene; each optional property is named with probability `detail`."""

    def says() -> bool:
        return bool(rng.random() < detail)

    things = [_named(shape, says()) for shape in scene.shapes]
    text = things[0]
    if relation is not None:
        text += f" {pick(rng, _RELATION_WORDS[relation]) if says() else 'and'} {things[1]}"
    elif place is not None and says():
        text += f" {pick(rng, _PLACE_WORDS[place])}"
    return text + (f", on a {scene.background} background" if says() else "")


def parse(prompt: str) -> Request | None:
    """Parse a prompt; None if it isn't a sentence of this grammar."""
    plain = re.sub(r"\s+", " ", prompt).strip().rstrip(".").lower().replace("grey", "gray")
    found = _PROMPT.fullmatch(plain)
    if found is None:
        return None
    numbers = (1, 2) if found["kind2"] else (1,)
    return Request(
        tuple(Wanted(found[f"kind{n}"], found[f"colour{n}"], found[f"size{n}"]) for n in numbers),
        _PLACES.get(found["place"] or ""),
        _RELATIONS.get(found["relation"] or ""),
        found["background"],
    )


def _named(shape: Shape, with_size: bool) -> str:
    """Return the shape's name in captions: "a small red circle", "an orange cross"."""
    words = [shape.size] * with_size + [shape.colour, shape.kind]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])
