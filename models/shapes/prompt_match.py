"""Check by geometry, without a network, whether a picture of shapes matches its prompt."""

from itertools import permutations

from models.shapes.drawing import Pixels
from models.shapes.grammar import Request, Wanted, parse
from models.shapes.reading import read
from models.shapes.world import Scene, Shape, place_of, relation_of


def judge(prompt: str, pixels: Pixels) -> bool | None:
    """Whether (H, W, 3) uint8 RGB pixels show exactly what `prompt` describes; None if it isn't of the grammar.

    The shapes must be those asked for and no others, with every size, place, relation and background that the prompt
    names.
    """
    request = parse(prompt)
    if request is None:
        return None
    scene = read(pixels)
    return scene is not None and shows(scene, request)


def shows(scene: Scene, request: Request) -> bool:
    """Whether the scene matches the request."""
    if len(scene.shapes) != len(request.shapes) or request.background not in {None, scene.background}:
        return False
    return any(_agrees(shapes, request) for shapes in permutations(scene.shapes))


def _agrees(shapes: tuple[Shape, ...], request: Request) -> bool:
    if not all(_is(shape, wanted) for shape, wanted in zip(shapes, request.shapes, strict=True)):
        return False
    if request.place is not None and place_of(shapes[0]) != request.place:
        return False
    return request.relation is None or relation_of(shapes[0], shapes[1]) == request.relation


def _is(shape: Shape, wanted: Wanted) -> bool:
    return shape.kind == wanted.kind and shape.colour == wanted.colour and wanted.size in {None, shape.size}
