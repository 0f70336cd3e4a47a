"""What lets one arithmetic run on NumPy arrays, in the thread that calls, and on torch tensors, where they lie.

NumPy works a batch off in strips that stay in the processor's cache, and touches the few blocks that want more work
alone. A tensor's batch is taken whole, with masks, so that nothing waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

# An ndarray or a torch.Tensor. What is written for both uses names that NumPy and torch have in common.
Array = Any

# Sides of the blocks of pixels that carry a bit each, and of the pictures' low bands in them.
SIDE = 8
CELLS = SIDE // 2

_STRIP = 262_144


def namespace(array: Array) -> Any:
    """Return the module, numpy or torch, whose functions take this array."""
    return np if isinstance(array, np.ndarray) else import_module("torch")


def beside(values: np.ndarray[Any, Any], array: Array) -> Array:
    """Return the values as an array of the other one's kind, on its device."""
    xp = namespace(array)
    return values if xp is np else xp.asarray(values, device=array.device)


def packed(array: Array) -> Array:
    """Return the array, or a copy of it whose elements lie in order."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


def in_order(array: Array, *axes: int) -> Array:
    """View the array with its axes in another order."""
    return array.transpose(axes) if isinstance(array, np.ndarray) else array.permute(axes)


@dataclass(frozen=True)
class Strip:
    """A part of a batch: some of its pictures, rows of theirs, and the rows of blocks that these hold."""

    pictures: slice
    rows: slice

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The part of an (N, H, …) batch."""
        return self.pictures, self.rows

    @property
    def blocks(self) -> slice:
        """The rows of whole blocks."""
        return slice(self.rows.start // SIDE, self.rows.stop // SIDE)


def strips(pixels: Array) -> Iterator[Strip]:
    """Yield the parts in which to work (N, H, W, 3) off; none but a picture's last cuts through blocks."""
    count, height, width = pixels.shape[:3]
    on_device = not isinstance(pixels, np.ndarray)
    pictures = count if on_device else max(1, _STRIP // (height * width))
    blocks = height // SIDE if on_device else max(1, _STRIP // (width * SIDE))
    starts = range(0, max(1, height // SIDE), max(1, blocks))
    for first in range(0, count, pictures):
        for start in starts:
            stop = height if start == starts[-1] else (start + blocks) * SIDE
            yield Strip(slice(first, min(count, first + pictures)), slice(start * SIDE, stop))


def halves(plane: Array) -> tuple[Array, Array]:
    """Return of (…, W) uint8, packed, the even and the odd columns, each (…, W / 2) int16."""
    pairs = plane.view(namespace(plane).int16)
    return pairs & 255, (pairs >> 8) & 255


def interleaved(even: Array, odd: Array) -> Array:
    """Return (…, columns) int16 that, viewed as bytes, are the low bytes of `even` and `odd` in turn; uses both up."""
    even &= 255
    odd <<= 8
    even |= odd
    return even


def by_cell(band: Array) -> Array:
    """Return (4, 4, blocks) of an (N, h, w) band, the blocks in order of picture, row and column."""
    count, height, width = band.shape
    cut = band.reshape(count, height // CELLS, CELLS, width // CELLS, CELLS)
    return packed(in_order(cut, 2, 4, 0, 1, 3).reshape(CELLS, CELLS, -1))


def by_picture(cells: Array, shape: tuple[int, int, int]) -> Array:
    """Return the (N, h, w) band of which (4, 4, blocks) are the cells."""
    count, height, width = shape
    cut = cells.reshape(CELLS, CELLS, count, height // CELLS, width // CELLS)
    return in_order(cut, 2, 3, 0, 4, 1).reshape(shape)


def as_blocks(pixels: Array) -> Array:
    """View (N, H, W, 3), H and W whole blocks, as (N, H / 8, W / 8, 8, 8, 3)."""
    count, height, width, channels = pixels.shape
    cut = pixels.reshape(count, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return in_order(cut, 0, 1, 3, 2, 4, 5)


def replace_blocks(pixels: Array, where: Array, others: Array) -> None:
    """Put other pixels into the blocks for which (N, H / 8, W / 8) is true."""
    ours, theirs = as_blocks(pixels), as_blocks(others)
    if isinstance(pixels, np.ndarray):
        ours[where] = theirs[where]
    else:
        ours[...] = namespace(pixels).where(where[..., None, None, None], theirs, ours)
