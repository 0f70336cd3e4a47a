"""Draw scenes as anti-aliased pictures."""

import numpy as np
import numpy.typing as npt

from models.shapes.world import PALETTE, Kind, Scene, Shape

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SAMPLES = 4
ARM = 0.36


def draw(scene: Scene, side: int = 64) -> Pixels:
    """Draw the scene as (side, side, 3) uint8 RGB, edges anti-aliased with 4x4 samples per pixel."""
    picture = np.empty((side, side, 3), dtype=np.float32)
    picture[:] = PALETTE[scene.background]
    for shape in scene.shapes:
        left, top, alpha = _stamp(shape, side)
        height, width = alpha.shape
        patch = picture[top : top + height, left : left + width]
        patch += alpha[..., None] * (np.array(PALETTE[shape.colour], dtype=np.float32) - patch)
    return picture.round().astype(np.uint8)


def coverage(kind: Kind, x: float, y: float, radius: float, side: int) -> Floats:
    """Return how much of each pixel of a (side, side) picture the shape covers, 0 to 1."""
    left, top, alpha = _stamp(Shape(kind, "red", x, y, radius), side)
    covered = np.zeros((side, side), dtype=np.float32)
    covered[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    return covered


def _stamp(shape: Shape, side: int) -> tuple[int, int, Floats]:
    """Return the left and top of the shape's box in pixels, and the coverage within it."""
    left, right = _span(shape.x, shape.radius, side)
    top, bottom = _span(shape.y, shape.radius, side)
    offsets = (np.arange(_SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES
    xs = ((np.arange(left, right)[:, None] + offsets).reshape(-1) / side - shape.x) / shape.radius
    ys = ((np.arange(top, bottom)[:, None] + offsets).reshape(-1) / side - shape.y) / shape.radius
    inside = _inside(shape.kind, xs[None, :], ys[:, None])
    blocks = inside.reshape(bottom - top, _SAMPLES, right - left, _SAMPLES)
    return left, top, blocks.mean(axis=(1, 3), dtype=np.float32)


def _span(centre: float, radius: float, side: int) -> tuple[int, int]:
    low, high = np.floor((centre - radius) * side), np.ceil((centre + radius) * side)
    return max(0, int(low)), min(side, int(high))


def _inside(kind: Kind, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether points are inside the shape whose box is -1..1."""
    box = (abs(x) <= 1) & (abs(y) <= 1)
    match kind:
        case "circle":
            return x**2 + y**2 <= 1
        case "square":
            return box
        case "triangle":
            return box & (abs(x) <= (y + 1) / 2)
        case "cross":
            return box & ((abs(x) <= ARM) | (abs(y) <= ARM))
