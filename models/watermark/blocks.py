"""Cut batches of images into strips that fit in the processor's cache, and into the blocks that carry a bit each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Side of the blocks of pixels that carry a bit each, and of their part in the low band of the Haar transform.
SIDE = 8
CELLS = SIDE // 2

# Pixels in a strip.
_STRIP = 262_144


@dataclass(frozen=True)
class Strip:
    """A part of a batch: some of its images, some of their pixel rows, and the rows of blocks within these."""

    images: slice
    rows: slice

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Indices of the part in an (N, H, …) batch."""
        return self.images, self.rows

    @property
    def blocks(self) -> tuple[slice, slice]:
        """Indices of the part's whole blocks in an (N, H // 8, …) batch."""
        return self.images, slice(self.rows.start // SIDE, self.rows.stop // SIDE)


def strips(pixels: Pixels) -> Iterator[Strip]:
    """Split (N, H, W, 3) into strips that end at block boundaries, except at the end of an image."""
    count, height, width = pixels.shape[:3]
    images = max(1, _STRIP // (height * width))
    rows = max(1, _STRIP // (width * SIDE)) * SIDE
    starts = range(0, max(1, height // SIDE * SIDE), rows)
    for first in range(0, count, images):
        for start in starts:
            stop = height if start == starts[-1] else start + rows
            yield Strip(slice(first, min(count, first + images)), slice(start, stop))


def whole_blocks(pixels: Pixels) -> Pixels:
    """Crop (N, H, W, …) to whole blocks; a view."""
    return pixels[:, : pixels.shape[1] // SIDE * SIDE, : pixels.shape[2] // SIDE * SIDE]


def as_blocks(pixels: Pixels) -> Pixels:
    """View (N, H, W, 3), H and W multiples of 8, as (N, H / 8, W / 8, 8, 8, 3)."""
    count, height, width, channels = pixels.shape
    cut = pixels.reshape(count, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5)


def by_cell(band: Array) -> Array:
    """Rearrange an (N, h, w) band to (4, 4, blocks), the blocks in order of image, row and column."""
    count, height, width = band.shape
    cut = band.reshape(count, height // CELLS, CELLS, width // CELLS, CELLS)
    return np.ascontiguousarray(cut.transpose(2, 4, 0, 1, 3).reshape(CELLS, CELLS, -1))


def by_image(cells: Array, shape: tuple[int, int, int]) -> Array:
    """Rearrange (4, 4, blocks) to an (N, h, w) band; the inverse of `by_cell`."""
    count, height, width = shape
    cut = cells.reshape(CELLS, CELLS, count, height // CELLS, width // CELLS)
    return cut.transpose(2, 3, 0, 4, 1).reshape(shape)


def halves(plane: Pixels) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Split (…, W) uint8, contiguous, into its even and odd columns, each (…, W / 2) int16."""
    pairs = plane.view(np.int16)
    return pairs & 255, (pairs >> 8) & 255


def interleaved(even: npt.NDArray[np.int16], odd: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Interleave the low bytes of `even` and `odd`, as (…, columns) int16 to be viewed as bytes; overwrites both."""
    even &= 255
    odd <<= 8
    even |= odd
    return even
