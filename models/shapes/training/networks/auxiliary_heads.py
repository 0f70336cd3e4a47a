"""Auxiliary heads that predict the content of captions and pictures; used only to train encoders."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from models.shapes.grammar import Request, parse
from models.shapes.world import BACKGROUNDS, COLOURS, KINDS, PLACES, RELATIONS, SIZES, Scene

_UNSAID = -100
_THING = (KINDS, COLOURS, ("any", *SIZES))
_QUESTIONS: tuple[tuple[str, ...], ...] = (
    *_THING,
    *_THING,
    ("any", *PLACES),
    ("any", *RELATIONS),
    ("any", *BACKGROUNDS),
)
_OF_A_COLOUR = (1, len(KINDS), len(SIZES), 2)


class Said(torch.nn.Linear):
    """Predict the content of a caption, with one classification for each property of the grammar."""

    def __init__(self, width: int) -> None:
        super().__init__(width, sum(map(len, _QUESTIONS)))

    def loss(self, features: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Return the mean cross entropy for `features` (N, width); captions outside the grammar don't count."""
        wanted = torch.tensor([_answers(parse(text)) for text in captions], device=features.device)
        given = self(features).split([len(choices) for choices in _QUESTIONS], dim=1)
        return torch.stack(
            [
                cross_entropy(one, right, ignore_index=_UNSAID)
                for one, right in zip(given, wanted.unbind(dim=1), strict=True)
            ]
        ).mean()


class Shown(torch.nn.Linear):
    """Predict a scene's background and, for each colour, whether there is a shape, its kind, size and position."""

    def __init__(self, width: int) -> None:
        super().__init__(width, len(COLOURS) * sum(_OF_A_COLOUR) + len(BACKGROUNDS))

    def loss(self, features: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        """Return cross entropies plus 10 squared errors of positions, in picture widths, for `features` (N, width)."""
        device = features.device
        of_colours, background = self(features).tensor_split([-len(BACKGROUNDS)], dim=1)
        there, kind, size, where = of_colours.view(len(scenes), len(COLOURS), -1).split(_OF_A_COLOUR, dim=2)
        found = [
            (row, COLOURS.index(shape.colour), KINDS.index(shape.kind), SIZES.index(shape.size))
            for row, scene in enumerate(scenes)
            for shape in scene.shapes
        ]
        rows, colours, kinds, sizes = torch.tensor(found, device=device).unbind(dim=1)
        places = torch.tensor(
            [(shape.x, shape.y) for scene in scenes for shape in scene.shapes], device=device
        )
        present = torch.zeros(there.shape[:2], device=device)
        present[rows, colours] = 1
        backgrounds = [BACKGROUNDS.index(scene.background) for scene in scenes]
        losses = (
            binary_cross_entropy_with_logits(there.squeeze(2), present),
            cross_entropy(kind[rows, colours], kinds),
            cross_entropy(size[rows, colours], sizes),
            10 * mse_loss(where[rows, colours], places),
            cross_entropy(background, torch.tensor(backgrounds, device=device)),
        )
        return torch.stack(losses).sum()


def _answers(request: Request | None) -> list[int]:
    """Return the index of the right answer to each question, or -100 where it doesn't apply."""
    if request is None:
        return [_UNSAID] * len(_QUESTIONS)
    said: list[str | None] = []
    for wanted in request.shapes:
        said += [wanted.kind, wanted.colour, wanted.size or "any"]
    said += [None] * (2 * len(_THING) - len(said))
    said += [request.place or "any", request.relation or "any", request.background or "any"]
    return [
        _UNSAID if answer is None else choices.index(answer)
        for answer, choices in zip(said, _QUESTIONS, strict=True)
    ]
