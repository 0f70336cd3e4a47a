"""Structural similarity of pictures (Wang, Bovik, Sheikh, Simoncelli 2004), with its authors' window and constants."""

import cv2
import numpy as np
import numpy.typing as npt

from models.watermark.blocks import Pixels

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_EDGE = 5


def ssim(one: Pixels, other: Pixels) -> float:
    """Return the mean over channels and pixels of (H, W, 3) uint8 RGB: 1 if they are equal."""
    return float(np.mean([_of_channel(one[..., n], other[..., n]) for n in range(3)]))


def _of_channel(one: Pixels, other: Pixels) -> float:
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    both = _blurred(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _C1) * (2 * both + _C2)
    below = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return float((above / below)[_EDGE:-_EDGE, _EDGE:-_EDGE].mean())


def _blurred(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = cv2.GaussianBlur(plane, (11, 11), 1.5)
    return found
