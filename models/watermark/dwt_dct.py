"""The method `dwtDct`, bit-identical to the package `invisible-watermark` 0.2.

It applies a Haar transform to OpenCV's U channel, cropped to multiples of four rows and columns. Each 4x4 block of the
low band carries one bit, row by row, in the largest of its values except the first (despite the name, there is no DCT):
the bit is 1 where that value mod 36 > 18. The package inverts the transform with the horizontal and the vertical band
exchanged, which transposes every 2x2 block of U, and truncates fractions. Values that are mathematically equal differ
in their last bits, which decide which one is the largest and how it is truncated; so this module performs the double
precision operations of PyWavelets in the same order.
"""

import numpy as np

from models.watermark.array_backend import (
    CELLS,
    SIDE,
    Array,
    beside,
    by_cell,
    halves,
    in_order,
    interleaved,
    namespace,
    packed,
    strips,
)
from models.watermark.colour import to_rgb, to_yuv, u_of

SCALE = 36.0

# The constant of PyWavelets' `haar`, in double precision.
_HALF_ROOT = 0.7071067811865476
# Earlier values of a block rank higher; the first value is excluded.
_RANKS = np.arange(CELLS * CELLS - 1, 0, -1, dtype=np.uint8)[:, None]


def embed(pixels: Array, wanted: Array) -> Array:
    """Embed the (H // 8, W // 8) `wanted` bits, 0 or 1, in the blocks of each (N, H, W, 3) uint8 RGB picture."""
    marked = namespace(pixels).empty_like(pixels)
    for strip in strips(pixels):
        yuv = to_yuv(pixels[strip.pixels])
        u = u_of(yuv)
        whole = _whole(u)
        whole[...] = _marked(packed(whole), wanted[strip.blocks])
        marked[strip.pixels] = to_rgb(yuv, u)
    return marked


def votes(pixels: Array) -> Array:
    """Return the vote of each block of (N, H, W, 3) uint8 RGB, (N, H // 8, W // 8): 1 or -1 for a bit of 1 or 0."""
    xp = namespace(pixels)
    count, height, width = pixels.shape[:3]
    said = beside(np.empty((count, height // SIDE, width // SIDE), np.float32), pixels)
    for strip in strips(pixels):
        bands, _ = _forward(packed(_whole(u_of(to_yuv(pixels[strip.pixels])))))
        strength, _ = _strongest(bands[0, 0])
        said[strip.pictures, strip.blocks] = xp.where(strength % SCALE > SCALE / 2, 1.0, -1.0)
    return said


def _whole(u: Array) -> Array:
    """Crop to the rows and columns that the package transforms."""
    return u[:, : u.shape[1] // CELLS * CELLS, : u.shape[2] // CELLS * CELLS]


def _marked(u: Array, wanted: Array) -> Array:
    xp = namespace(u)
    bands, spare = _forward(u)
    low = bands[0, 0]
    strongest, place = _strongest(low)
    low.reshape(-1)[place] = (xp.floor(strongest / SCALE) + wanted * 0.5 + 0.25) * SCALE
    values = xp.asarray(_back(bands, spare), dtype=xp.int16)
    marked = xp.empty_like(u)
    _by_row(marked.view(xp.int16))[...] = interleaved(values[:, 0], values[:, 1])
    return marked


def _strongest(low: Array) -> tuple[Array, Array]:
    """Return the values that carry the bits, (N, rows, columns) of blocks, and their indices in the flat low band."""
    xp = namespace(low)
    count, height, width = low.shape
    rows, columns = height // CELLS, width // CELLS
    cells = by_cell(low[:, : rows * CELLS, : columns * CELLS]).reshape(CELLS * CELLS, -1)
    strongest = xp.amax(cells[1:], axis=0)
    is_it = cells[1:] == strongest
    rank = xp.asarray(xp.amax(is_it * beside(_RANKS, low), axis=0), dtype=xp.int64)
    number = CELLS * CELLS - rank.reshape(count, rows, columns)
    first = np.arange(count)[:, None, None] * height + np.arange(rows)[:, None] * CELLS
    corner = beside(first * width + np.arange(columns) * CELLS, low)
    place = corner + number // CELLS * width + number % CELLS
    return strongest.reshape(count, rows, columns), place


def _forward(u: Array) -> tuple[Array, Array]:
    """Return the (2, 2, N, H / 2, W / 2) bands of (N, H, W) uint8, contiguous, and a scratch array of that shape.

    [0, 0] is the low band, [1, 0] holds the differences between columns and [0, 1] those between rows.
    """
    xp = namespace(u)
    count, height, width = u.shape
    shape = 2, 2, count, height // 2, width // 2
    values, spare = (xp.empty_like(u, dtype=xp.float64).reshape(shape) for _ in range(2))
    values[0], values[1] = (_by_row(half) for half in halves(u))
    values *= _HALF_ROOT
    xp.add(values[:, 0], values[:, 1], out=spare[0])
    xp.subtract(values[:, 0], values[:, 1], out=spare[1])
    spare *= _HALF_ROOT
    xp.add(spare[:, 0], spare[:, 1], out=values[0])
    xp.subtract(spare[:, 0], spare[:, 1], out=values[1])
    return values, spare


def _back(bands: Array, spare: Array) -> Array:
    """Return (2, 2, N, H / 2, W / 2) values: by row of each 2x2 block, then by column. Overwrites both arguments."""
    xp = namespace(bands)
    bands *= _HALF_ROOT
    xp.add(bands[:, 0], bands[:, 1], out=spare[0])
    xp.subtract(bands[:, 0], bands[:, 1], out=spare[1])
    spare *= _HALF_ROOT
    xp.add(spare[:, 0], spare[:, 1], out=bands[0])
    xp.subtract(spare[:, 0], spare[:, 1], out=bands[1])
    return bands


def _by_row(plane: Array) -> Array:
    """View (N, H, W) as (2, N, H / 2, W): even and odd rows."""
    count, height, width = plane.shape
    return in_order(plane.reshape(count, height // 2, 2, width), 2, 0, 1, 3)
