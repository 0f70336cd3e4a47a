"""Change the U channel by changing RGB values, with ordered dithering so that rounding errors don't add up."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.watermark.blocks import CELLS, SIDE, Floats, Pixels, interleaved
from models.watermark.colour import add_green_and_blue

# The contribution of R, G, B to U (ITU-R BT.601 as in OpenCV), and the changes of green and blue that add 1 to U
# without changing Y and V.
_TO_U = (-0.147, -0.289, 0.436)
_GREEN_OF_U, _BLUE_OF_U = -0.395, 2.032


def _bayer(size: int) -> npt.NDArray[np.int16]:
    """Return the (size, size) ordered-dither matrix of 0 to size² - 1 (Bayer 1973)."""
    if size == 1:
        return np.zeros((1, 1), np.int16)
    quarter = 4 * _bayer(size // 2)
    return np.block([[quarter, quarter + 2], [quarter + 3, quarter + 1]]).astype(np.int16)


_BAYER = _bayer(SIDE)
_LEVELS = SIDE * SIDE


def tint(pixels: Pixels, change: Floats) -> Pixels:
    """Add (N, H / 2, W / 2) float32 to the U of each 2x2 block of (N, H, W, 3) uint8 RGB, keeping Y and V."""
    return add_green_and_blue(pixels, _steps(change * _GREEN_OF_U), _steps(change * _BLUE_OF_U))


def fill(pixels: Pixels, change: Floats) -> Pixels:
    """As `tint`, but change blue as far as possible, then green, then red, without keeping Y and V."""
    height, width = pixels.shape[1:3]
    left = change.repeat(2, axis=1).repeat(2, axis=2)
    dither = np.tile((_BAYER + np.float32(0.5)) / _LEVELS, (height // SIDE, width // SIDE))
    moved = pixels.copy()
    for channel in (2, 1, 0):
        before = pixels[..., channel].astype(np.float32)
        add = np.where(np.abs(left) > 0.5, left / _TO_U[channel], 0)
        after = np.floor(np.clip(before + add + dither, 0, 255))
        moved[..., channel] = after
        left = left - (after - before) * _TO_U[channel]
    return moved


def _steps(change: Floats) -> npt.NDArray[np.int8]:
    """Upsample (N, H / 2, W / 2) float32 to dithered (N, H, W) int8."""
    count, rows, columns = change.shape
    fine = np.round(change * _LEVELS).astype(np.int16)
    fine = fine.reshape(count, rows // CELLS, CELLS, 1, columns)
    even, odd = (fine + _dither(columns, side) >> 6 for side in (0, 1))
    return interleaved(even, odd).view(np.int8).reshape(count, 2 * rows, 2 * columns)


@lru_cache(maxsize=8)
def _dither(columns: int, side: int) -> npt.NDArray[np.int16]:
    """Return (4, 2, columns) of the dither matrix, for the left or the right pixels of each 2x2 block."""
    return np.tile(_BAYER[:, side::2].reshape(CELLS, 2, CELLS), columns // CELLS)
