"""The method `dwtDctSvd`: readable by the package `invisible-watermark`, but less visible than the package's marks.

The low band of a Haar transform of OpenCV's U channel (half the sum of each 2x2 block) is cut into 4x4 blocks, row by
row; each carries one bit in its largest singular value s: the bit is 1 where s mod 36 > 18. The DCT is orthonormal and
so doesn't change s. Each block's s is moved to the nearest interval that reads as wanted; blocks that don't hold their
bit, because colours were clipped, are retried in other ways.
"""

import numpy as np
import numpy.typing as npt

from models.watermark.blocks import (
    SIDE,
    Floats,
    Pixels,
    as_blocks,
    by_cell,
    by_image,
    halves,
    strips,
    whole_blocks,
)
from models.watermark.colour import to_yuv, u_of
from models.watermark.dithered_colour_change import fill, tint
from models.watermark.svd import top_singular

SCALE = 36.0

# A block whose s is this near to the middle of its interval, 9 from either edge, is left unchanged.
_TOLERANCE = 4.0
# The retries, as (far, filling): the nearest interval again, then the one on the other side, then any channel that
# isn't clipped.
_RETRIES = ((False, False), (True, False), (False, True), (False, True), (True, True))


def embed(pixels: Pixels, wanted: Pixels) -> Pixels:
    """Embed the (H // 8, W // 8) `wanted` bits, 0 or 1, in the blocks of each (N, H, W, 3) uint8 RGB image."""
    marked = pixels.copy()
    whole = whole_blocks(marked)
    bits = np.broadcast_to(wanted, (len(whole), *wanted.shape))
    holds = np.empty(bits.shape, bool)
    for strip in strips(whole):
        part = np.ascontiguousarray(whole[strip.pixels])
        whole[strip.pixels], holds[strip.blocks] = _move(part, bits[strip.blocks])
    for far, filling in _RETRIES:
        _retry(whole, bits, holds, far=far, filling=filling)
    return marked


def votes(pixels: Pixels) -> Floats:
    """Return the vote of each block of (N, H, W, 3) uint8 RGB, (N, H // 8, W // 8): from -1 (surely 0) to 1."""
    found: Floats = -np.sin(singular_values(pixels) * (2 * np.pi / SCALE))
    return found


def singular_values(pixels: Pixels) -> Floats:
    """Return the largest singular value of each block's low band of U, (N, H // 8, W // 8) float32."""
    whole = whole_blocks(pixels)
    count, height, width = whole.shape[:3]
    values = np.empty((count, height // SIDE, width // SIDE), np.float32)
    for strip in strips(whole):
        part = values[strip.blocks]
        part[...] = top_singular(_low_band(whole[strip.pixels]))[0].reshape(part.shape)
    return values


def _retry(whole: Pixels, bits: Pixels, holds: npt.NDArray[np.bool_], *, far: bool, filling: bool) -> None:
    """Retry the blocks that don't hold their bit, gathered into one wide image."""
    failed = ~holds
    if failed.any():
        blocks = as_blocks(whole)
        row = blocks[failed].swapaxes(0, 1).reshape(1, SIDE, -1, 3)
        moved, held = _move(row, bits[failed][None, None], far=far, filling=filling)
        blocks[failed], holds[failed] = as_blocks(moved)[0, 0], held[0, 0]


def _move(
    pixels: Pixels, bits: Pixels, *, far: bool = False, filling: bool = False
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Change (N, H, W, 3) to read as the (N, H / 8, W / 8) bits; return it and which blocks hold theirs.

    `far` aims at the interval on the other side than the nearest; `filling` changes any channel that isn't clipped
    instead of keeping the luma. A block that this would move farther from a correct interval is left unchanged.
    """
    strength, left, right = top_singular(_low_band(pixels))
    wanted = bits.reshape(-1)
    nearest = _way(strength, wanted)
    way = _way(strength, wanted, far=True) if far else nearest
    step = (way / 2 * left)[:, None] * right
    count, height, width = pixels.shape[:3]
    change = by_image(step, (count, height // 2, width // 2))
    moved = fill(pixels, change) if filling else tint(pixels, change)
    before = np.abs(nearest)
    after = np.abs(_way(top_singular(_low_band(moved), right, rounds=3)[0], wanted))
    worse = (after > before).reshape(bits.shape)
    as_blocks(moved)[worse] = as_blocks(pixels)[worse]
    return moved, (np.minimum(before, after) <= _TOLERANCE).reshape(bits.shape)


def _low_band(pixels: Pixels) -> Floats:
    """Return the low band of U of (N, H, W, 3), by cell: (4, 4, blocks) float32."""
    left, right = halves(u_of(to_yuv(pixels)))
    left += right
    band: Floats = by_cell(left[:, ::2] + left[:, 1::2]).astype(np.float32)
    band /= 2
    return band


def _way(strength: Floats, wanted: Pixels, *, far: bool = False) -> Floats:
    """Return the difference from the singular values to the middle of an interval that reads as wanted."""
    above = (strength - SCALE / 4 - wanted * np.float32(SCALE / 2)) % SCALE
    return np.where((above > SCALE / 2) != far, SCALE - above, -above)
