"""Largest singular values of many 4x4 blocks at once, vectorised over the blocks."""

from models.watermark.array_backend import Array, namespace


def top_singular(band: Array, right: Array | None = None, *, rounds: int = 6) -> tuple[Array, Array, Array]:
    """Return the largest singular values (n,) of (4, 4, n) float32, and their left and right vectors (4, n).

    Uses power iteration, starting from the row sums, which are near the solution since all entries are positive and
    most blocks nearly constant, or from `right` if it is known.
    """
    square = band[0][:, None] * band[0]
    for row in band[1:]:
        square += row[:, None] * row
    square /= square[0, 0] + square[1, 1] + square[2, 2] + square[3, 3]
    for _ in range(rounds):
        right = _times(square, right) if right is not None else square.sum(axis=1)
    assert right is not None
    right /= _length(right)
    left = _times(band, right)
    strength = _length(left)
    left /= strength
    return strength, left, right


def _times(matrix: Array, vector: Array) -> Array:
    return (matrix * vector).sum(axis=1)


def _length(vector: Array) -> Array:
    return namespace(vector).sqrt((vector * vector).sum(axis=0))
