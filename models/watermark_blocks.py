"""The watermark's arithmetic on all blocks at once; their axis is the long one, for the speed of NumPy."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]

SIDE = 8
SCALE = 36.0

# A block this near (in singular value) to the middle of its band, 9 from either edge, is left as it is.
_TOLERANCE = 4.0
# What each of R, G, B adds to U (ITU-R BT.601 as in OpenCV), and what adds 1 to U and leaves Y and V.
_TO_U = (-0.147, -0.289, 0.436)
_ONE_OF_U = (0.0, -0.395, 2.032)


def _bayer(size: int) -> Floats:
    """Return the (size, size) ordered-dither matrix of 0 to size² - 1 (Bayer 1973)."""
    if size == 1:
        return np.zeros((1, 1), np.float32)
    quarter = 4 * _bayer(size // 2)
    return np.block([[quarter, quarter + 2], [quarter + 3, quarter + 1]])


_DITHER = ((_bayer(SIDE) + 0.5) / SIDE**2)[:, :, None]


def cut(pixels: Pixels) -> Pixels:
    """Return the whole blocks of an (H, W, 3) RGB picture as (8, 8, blocks, 3)."""
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    whole = pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
    return np.ascontiguousarray(whole.transpose(1, 3, 0, 2, 4)).reshape(SIDE, SIDE, rows * columns, 3)


def join(blocks: Pixels, pixels: Pixels) -> Pixels:
    """Return a copy of the picture with its whole blocks replaced by (8, 8, blocks, 3)."""
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    whole = blocks.reshape(SIDE, SIDE, rows, columns, 3).transpose(2, 0, 3, 1, 4)
    joined = pixels.copy()
    joined[: rows * SIDE, : columns * SIDE] = whole.reshape(rows * SIDE, columns * SIDE, 3)
    return joined


def singular_values(blocks: Pixels) -> Floats:
    """Return the largest singular value, (blocks,), of each block's low band of U."""
    return _top_singular(_low_band(blocks))[0]


def move(blocks: Pixels, wanted: Pixels, *, far: bool, fill: bool) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Return (8, 8, n, 3) blocks changed to read as the (n,) wanted bits, and which of them hold their bit.

    `far` aims at the band on the other side than the nearest; `fill` changes whichever channel has room
    instead of keeping the luma. A block that this would bring farther from a right band stays as it was.
    """
    strength, left, right = _top_singular(_low_band(blocks))
    change = (_way(strength, wanted, far=far) / 2 * left)[:, None] * right
    change = np.repeat(np.repeat(change, 2, axis=0), 2, axis=1)
    moved = _fill(blocks, change) if fill else _tint(blocks, change)
    before = np.abs(_way(strength, wanted, far=False))
    after = np.abs(_way(singular_values(moved), wanted, far=False))
    worse = np.flatnonzero(after > before)
    moved[:, :, worse] = blocks[:, :, worse]
    return moved, np.minimum(before, after) <= _TOLERANCE


def _low_band(blocks: Pixels) -> Floats:
    count = blocks.shape[2]
    u: Pixels = cv2.cvtColor(blocks.reshape(SIDE * SIDE, count, 3), cv2.COLOR_RGB2YUV)[:, :, 1]
    sums: Floats = u.reshape(4, 2, 4, 2, count).astype(np.float32).sum(axis=(1, 3))
    return sums / 2


def _top_singular(band: Floats) -> tuple[Floats, Floats, Floats]:
    """Return of (4, 4, n) matrices the largest singular values (n,), and their left and right vectors (4, n).

    By power iteration, which begins near the answer: all entries are positive and most blocks nearly flat.
    """
    square = np.einsum("kin,kjn->ijn", band, band)
    right = np.full(band.shape[1:], 0.5, np.float32)
    for _ in range(6):
        right = np.einsum("ijn,jn->in", square, right)
        right /= np.sqrt(np.einsum("in,in->n", right, right))
    left = np.einsum("ijn,jn->in", band, right)
    strength = np.sqrt(np.einsum("in,in->n", left, left))
    return strength, left / strength, right


def _way(strength: Floats, wanted: Pixels, *, far: bool) -> Floats:
    """Return what to add to the singular values to reach the middle of a band that reads as wanted."""
    above = (strength - np.float32(SCALE / 4) - wanted * np.float32(SCALE / 2)) % SCALE
    return np.where((above > SCALE / 2) != far, SCALE - above, -above).astype(np.float32)


def _tint(blocks: Pixels, change: Floats) -> Pixels:
    """Add (8, 8, n) to U, keeping Y and V; dithered, since one same rounding would add up over a block."""
    moved = blocks.copy()
    for channel in (1, 2):
        exact = blocks[..., channel] + change * np.float32(_ONE_OF_U[channel])
        moved[..., channel] = np.clip(exact + _DITHER, 0, 255)
    return moved


def _fill(blocks: Pixels, change: Floats) -> Pixels:
    """Add (8, 8, n) to U by blue as far as it goes, then by green, then by red."""
    moved = blocks.copy()
    for channel in (2, 1, 0):
        add = np.where(np.abs(change) > 0.5, change / np.float32(_TO_U[channel]), 0)
        moved[..., channel] = np.clip(blocks[..., channel] + add + _DITHER, 0, 255)
        added = moved[..., channel].astype(np.float32) - blocks[..., channel]
        change = change - added * np.float32(_TO_U[channel])
    return moved
