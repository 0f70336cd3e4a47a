"""The method `dwtDct`, bit-identical to the package `invisible-watermark` 0.2.

It applies a Haar transform to OpenCV's U channel, cropped to multiples of four rows and columns. Each 4x4 block of the
low band carries one bit, row by row, in the largest of its values except the first (despite the name, there is no DCT):
the bit is 1 where that value mod 36 > 18. The package inverts the transform with the horizontal and the vertical band
exchanged, which transposes every 2x2 block of U, and truncates fractions. Values that are mathematically equal differ
in their last bits, which decide which one is the largest and how it is truncated; so this module performs the double
precision operations of PyWavelets in the same order.
"""

import numpy as np
import numpy.typing as npt

from models.watermark.blocks import CELLS, SIDE, Floats, Pixels, by_cell, halves, interleaved, strips
from models.watermark.colour import to_rgb, to_yuv, u_of

Doubles = npt.NDArray[np.float64]

SCALE = 36.0

# The constant of PyWavelets' `haar`, in double precision.
_HALF_ROOT = 0.7071067811865476
# Earlier values of a block rank higher; the first value is excluded.
_RANKS = np.arange(CELLS * CELLS - 1, 0, -1, dtype=np.uint8)[:, None]


def embed(pixels: Pixels, wanted: Pixels) -> Pixels:
    """Embed the (H // 8, W // 8) `wanted` bits, 0 or 1, in the blocks of each (N, H, W, 3) uint8 RGB image."""
    marked = np.empty_like(pixels)
    for strip in strips(pixels):
        yuv = to_yuv(pixels[strip.pixels])
        u = u_of(yuv)
        whole = _whole(u)
        whole[...] = _marked(np.ascontiguousarray(whole), wanted[strip.blocks[1]])
        marked[strip.pixels] = to_rgb(yuv, u)
    return marked


def votes(pixels: Pixels) -> Floats:
    """Return the vote of each block of (N, H, W, 3) uint8 RGB, (N, H // 8, W // 8): 1 or -1 for a bit of 1 or 0."""
    count, height, width = pixels.shape[:3]
    found = np.empty((count, height // SIDE, width // SIDE), np.float32)
    for strip in strips(pixels):
        bands, _ = _forward(np.ascontiguousarray(_whole(u_of(to_yuv(pixels[strip.pixels])))))
        strength, _ = _strongest(bands[0, 0])
        found[strip.blocks] = np.where(strength % SCALE > SCALE / 2, 1.0, -1.0)
    return found


def _whole(u: Pixels) -> Pixels:
    """Crop to the rows and columns that the package transforms."""
    return u[:, : u.shape[1] // CELLS * CELLS, : u.shape[2] // CELLS * CELLS]


def _marked(u: Pixels, wanted: Pixels) -> Pixels:
    bands, spare = _forward(u)
    low = bands[0, 0]
    strongest, place = _strongest(low)
    low.reshape(-1)[place] = (np.floor(strongest / SCALE) + wanted * 0.5 + 0.25) * SCALE
    values = _back(bands, spare).astype(np.int16)
    marked = np.empty_like(u)
    _by_row(marked.view(np.int16))[...] = interleaved(values[:, 0], values[:, 1])
    return marked


def _strongest(low: Doubles) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """Return the values that carry the bits, (N, rows, columns) of blocks, and their indices in the flat low band."""
    count, height, width = low.shape
    rows, columns = height // CELLS, width // CELLS
    cells = by_cell(low[:, : rows * CELLS, : columns * CELLS]).reshape(CELLS * CELLS, -1)
    strongest = cells[1:].max(axis=0)
    rank = ((cells[1:] == strongest) * _RANKS).max(axis=0).astype(np.int64)
    number = CELLS * CELLS - rank.reshape(count, rows, columns)
    first = np.arange(count)[:, None, None] * height + np.arange(rows)[:, None] * CELLS
    corner = first * width + np.arange(columns) * CELLS
    place = corner + number // CELLS * width + number % CELLS
    return strongest.reshape(count, rows, columns), place


def _forward(u: Pixels) -> tuple[Doubles, Doubles]:
    """Return the (2, 2, N, H / 2, W / 2) bands of (N, H, W) uint8, contiguous, and a scratch array of that shape.

    [0, 0] is the low band, [1, 0] holds the differences between columns and [0, 1] those between rows.
    """
    count, height, width = u.shape
    values, spare = (np.empty((2, 2, count, height // 2, width // 2)) for _ in range(2))
    values[0], values[1] = (_by_row(half) for half in halves(u))
    values *= _HALF_ROOT
    _sum_and_difference(values, spare)
    spare *= _HALF_ROOT
    _sum_and_difference(spare, values)
    return values, spare


def _back(bands: Doubles, spare: Doubles) -> Doubles:
    """Return (2, 2, N, H / 2, W / 2) values: by row of each 2x2 block, then by column. Overwrites both arguments."""
    bands *= _HALF_ROOT
    _sum_and_difference(bands, spare)
    spare *= _HALF_ROOT
    _sum_and_difference(spare, bands)
    return bands


def _sum_and_difference(values: Doubles, out: Doubles) -> None:
    """Write the sum and the difference of `values[:, 0]` and `values[:, 1]` to `out[0]` and `out[1]`."""
    np.add(values[:, 0], values[:, 1], out=out[0])
    np.subtract(values[:, 0], values[:, 1], out=out[1])


def _by_row(plane: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """View (N, H, W) as (2, N, H / 2, W / 2): even and odd rows."""
    count, height, width = plane.shape
    return plane.reshape(count, height // 2, 2, width).transpose(2, 0, 1, 3)
