"""`dwtDctSvd`: marks that the decoder of the package `invisible-watermark` reads, in better pictures than its own.

Of OpenCV's U channel, the low band of a Haar transform (half the sum of 2x2 pixels) is cut into 4x4 blocks, row by
row; each carries a bit in its largest singular value s: the bit is 1 where s mod 36 > 18. The DCT is orthonormal and
so leaves s alone. Blocks are moved to the nearest band that reads as wanted; those that don't hold their bit, since
colours were clipped, are tried again in other ways.
"""

import numpy as np

from models.watermark.arrays import (
    SIDE,
    Array,
    as_blocks,
    beside,
    by_cell,
    by_picture,
    halves,
    namespace,
    packed,
    replace_blocks,
    strips,
)
from models.watermark.colour import to_yuv, u_of
from models.watermark.dither import fill, tint
from models.watermark.svd import top_singular

SCALE = 36.0

# A block this near (in singular value) to the middle of its band, 9 from either edge, is left as it is.
_TOLERANCE = 4.0
# How to try again, as (far, filling): the nearest band once more, then the band on the other side, then whichever
# channel has room.
_RETRIES = ((False, False), (True, False), (False, True), (False, True), (True, True))


def embed(pixels: Array, wanted: Array) -> Array:
    """Return (N, H, W, 3) uint8 RGB with the (H // 8, W // 8) wanted bits, 0 or 1, in the blocks of each picture."""
    marked = namespace(pixels).asarray(pixels, copy=True)
    whole = _whole(marked)
    bits = namespace(pixels).broadcast_to(wanted, (len(whole), *wanted.shape))
    holds = beside(np.empty(bits.shape, bool), pixels)
    for strip in strips(whole):
        part = strip.pictures, strip.blocks
        whole[strip.pixels], holds[part] = _move(packed(whole[strip.pixels]), bits[part])
    for far, filling in _RETRIES:
        retry = _retry_failed if isinstance(pixels, np.ndarray) else _retry
        retry(whole, bits, holds, far=far, filling=filling)
    return marked


def votes(pixels: Array) -> Array:
    """Return what the blocks of (N, H, W, 3) uint8 RGB say, (N, H // 8, W // 8): from -1, surely 0, to 1."""
    xp = namespace(pixels)
    return -xp.sin(singular_values(pixels) * (2 * np.pi / SCALE))


def singular_values(pixels: Array) -> Array:
    """Return the largest singular value of each block's low band of U, (N, H // 8, W // 8) float32."""
    whole = _whole(pixels)
    count, height, width = whole.shape[:3]
    values = beside(np.empty((count, height // SIDE, width // SIDE), np.float32), pixels)
    for strip in strips(whole):
        part = values[strip.pictures, strip.blocks]
        part[...] = top_singular(_low_band(whole[strip.pixels]))[0].reshape(part.shape)
    return values


def _retry_failed(whole: Array, bits: Array, holds: Array, *, far: bool, filling: bool) -> None:
    """Move again those blocks that don't hold their bit, side by side as one picture: NumPy likes long rows."""
    failed = ~holds
    if failed.any():
        blocks = as_blocks(whole)
        row = blocks[failed].swapaxes(0, 1).reshape(1, SIDE, -1, 3)
        moved, held = _move(row, bits[failed][None, None], far=far, filling=filling)
        blocks[failed], holds[failed] = as_blocks(moved)[0, 0], held[0, 0]


def _retry(whole: Array, bits: Array, holds: Array, *, far: bool, filling: bool) -> None:
    """The same without looking at what failed."""
    moved, held = _move(packed(whole), bits, far=far, filling=filling)
    replace_blocks(whole, ~holds, moved)
    holds |= held


def _move(pixels: Array, bits: Array, *, far: bool = False, filling: bool = False) -> tuple[Array, Array]:
    """Return (N, H, W, 3) changed to read as the (N, H / 8, W / 8) bits, and which blocks hold theirs.

    `far` aims at the band on the other side than the nearest; `filling` changes whichever channel has room instead
    of keeping the luma. A block that this would bring farther from a right band stays as it was.
    """
    xp = namespace(pixels)
    strength, left, right = top_singular(_low_band(pixels))
    wanted = bits.reshape(-1)
    nearest = _way(strength, wanted)
    way = _way(strength, wanted, far=True) if far else nearest
    step = (way / 2 * left)[:, None] * right
    count, height, width = pixels.shape[:3]
    change = by_picture(step, (count, height // 2, width // 2))
    moved = fill(pixels, change) if filling else tint(pixels, change)
    before = xp.abs(nearest)
    after = xp.abs(_way(top_singular(_low_band(moved), right, rounds=3)[0], wanted))
    replace_blocks(moved, (after > before).reshape(bits.shape), pixels)
    return moved, (xp.minimum(before, after) <= _TOLERANCE).reshape(bits.shape)


def _whole(pixels: Array) -> Array:
    """The whole blocks."""
    return pixels[:, : pixels.shape[1] // SIDE * SIDE, : pixels.shape[2] // SIDE * SIDE]


def _low_band(pixels: Array) -> Array:
    """Return the low band of U of (N, H, W, 3), by cell: (4, 4, blocks) float32."""
    xp = namespace(pixels)
    left, right = halves(u_of(to_yuv(pixels)))
    left += right
    band = by_cell(left[:, ::2] + left[:, 1::2])
    return xp.asarray(band, dtype=xp.float32) / 2


def _way(strength: Array, wanted: Array, *, far: bool = False) -> Array:
    """Return what to add to the singular values to reach the middle of a band that reads as wanted."""
    above = (strength - SCALE / 4 - wanted * np.float32(SCALE / 2)) % SCALE
    return namespace(strength).where((above > SCALE / 2) != far, SCALE - above, -above)
