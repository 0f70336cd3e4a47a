"""Helpers that let the same code run on NumPy arrays and on torch tensors on their device.

NumPy arrays are processed in strips that fit in the processor's cache, and only the few blocks that need more work are
retried. A batch of tensors is processed whole, with masks, so that the host never waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

# An ndarray or a torch.Tensor. Code for both uses names that NumPy and torch have in common.
Array = Any

# Side of the blocks of pixels that carry a bit each, and of their part in the low band of the Haar transform.
SIDE = 8
CELLS = SIDE // 2

_STRIP = 262_144


def namespace(array: Array) -> Any:
    """Return the module, numpy or torch, whose functions accept this array."""
    return np if isinstance(array, np.ndarray) else import_module("torch")


def beside(values: np.ndarray[Any, Any], array: Array) -> Array:
    """Convert the values to an array of the other array's type, on its device."""
    xp = namespace(array)
    return values if xp is np else xp.asarray(values, device=array.device)


def packed(array: Array) -> Array:
    """Return the array, or a contiguous copy of it."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


def in_order(array: Array, *axes: int) -> Array:
    """Return a view of the array with its axes in another order."""
    return array.transpose(axes) if isinstance(array, np.ndarray) else array.permute(axes)


@dataclass(frozen=True)
class Strip:
    """A part of a batch: some of its pictures, some of their pixel rows, and the rows of blocks within these."""

    pictures: slice
    rows: slice

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Indices of the part in an (N, H, …) batch."""
        return self.pictures, self.rows

    @property
    def blocks(self) -> slice:
        """Indices of the rows of whole blocks."""
        return slice(self.rows.start // SIDE, self.rows.stop // SIDE)


def strips(pixels: Array) -> Iterator[Strip]:
    """Split (N, H, W, 3) into strips that end at block boundaries, except at the end of a picture."""
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
    """Split (…, W) uint8, contiguous, into its even and odd columns, each (…, W / 2) int16."""
    pairs = plane.view(namespace(plane).int16)
    return pairs & 255, (pairs >> 8) & 255


def interleaved(even: Array, odd: Array) -> Array:
    """Interleave the low bytes of `even` and `odd`, as (…, columns) int16 to be viewed as bytes; overwrites both."""
    even &= 255
    odd <<= 8
    even |= odd
    return even


def by_cell(band: Array) -> Array:
    """Rearrange an (N, h, w) band to (4, 4, blocks), the blocks in order of picture, row and column."""
    count, height, width = band.shape
    cut = band.reshape(count, height // CELLS, CELLS, width // CELLS, CELLS)
    return packed(in_order(cut, 2, 4, 0, 1, 3).reshape(CELLS, CELLS, -1))


def by_picture(cells: Array, shape: tuple[int, int, int]) -> Array:
    """Rearrange (4, 4, blocks) to an (N, h, w) band; the inverse of `by_cell`."""
    count, height, width = shape
    cut = cells.reshape(CELLS, CELLS, count, height // CELLS, width // CELLS)
    return in_order(cut, 2, 3, 0, 4, 1).reshape(shape)


def as_blocks(pixels: Array) -> Array:
    """View (N, H, W, 3), H and W multiples of 8, as (N, H / 8, W / 8, 8, 8, 3)."""
    count, height, width, channels = pixels.shape
    cut = pixels.reshape(count, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return in_order(cut, 0, 1, 3, 2, 4, 5)


def replace_blocks(pixels: Array, where: Array, others: Array) -> None:
    """Copy the blocks for which (N, H / 8, W / 8) is true from `others` to `pixels`."""
    ours, theirs = as_blocks(pixels), as_blocks(others)
    if isinstance(pixels, np.ndarray):
        ours[where] = theirs[where]
    else:
        ours[...] = namespace(pixels).where(where[..., None, None, None], theirs, ours)
