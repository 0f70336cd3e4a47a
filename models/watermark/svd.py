"""Largest singular values of many 4x4 blocks at once, vectorised over the blocks."""

import numpy as np

from models.watermark.blocks import Floats


def top_singular(
    band: Floats, right: Floats | None = None, *, rounds: int = 6
) -> tuple[Floats, Floats, Floats]:
    """Return the largest singular values (n,) of (4, 4, n) float32, and their left and right vectors (4, n).

    Uses power iteration, starting from the row sums, which are near the solution since all entries are positive and
    most blocks nearly constant, or from `right` if it is known.
    """
    square = band[0][:, None] * band[0]
    for row in band[1:]:
        square += row[:, None] * row
    square /= square[0, 0] + square[1, 1] + square[2, 2] + square[3, 3]
    right = square.sum(axis=1) if right is None else _times(square, right)
    for _ in range(rounds - 1):
        right = _times(square, right)
    right /= _length(right)
    left = _times(band, right)
    strength = _length(left)
    left /= strength
    return strength, left, right


def _times(matrix: Floats, vector: Floats) -> Floats:
    product: Floats = (matrix * vector).sum(axis=1)
    return product


def _length(vector: Floats) -> Floats:
    length: Floats = np.sqrt((vector * vector).sum(axis=0))
    return length
