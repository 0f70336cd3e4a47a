"""Embed and read the invisible watermark, in two methods compatible with the package `invisible-watermark`.

Each block of 8x8 pixels of OpenCV's U channel (blue difference) carries one bit; blocks are numbered row by row, and
block k carries bit k mod n of the payload. `dwtDctSvd` is read without errors from lossless files and mostly after
lossy compression. `dwtDct` is bit-identical to the package's output, with which the published Stable Diffusion
pipelines mark images, and is read less reliably.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from models.watermark import dwt_dct, dwt_dct_svd
from models.watermark.blocks import SIDE, Floats, Pixels

# The package reads a bit as 1 if more than 127 of 255 of its blocks do; here as a mean of votes of -1 and 1.
_EVEN = 2 * 127 / 255 - 1


class Method(StrEnum):
    """Method of embedding the bits."""

    DWT_DCT = "dwtDct"
    DWT_DCT_SVD = "dwtDctSvd"


class MarkTooSmallError(ValueError):
    """The image has fewer blocks of 8x8 pixels than the payload has bits."""


@dataclass(frozen=True)
class MarkReading:
    """The result of reading an expected payload, of one image or of each in a batch (N, …).

    `bits` is (…, n) uint8 of 0 and 1; `bit_accuracy` (…) is the share of correct bits; `confidence` (…) is the mean
    over the bits of how clearly each was read, from 0 (blocks contradict each other) to 1.
    """

    bits: Pixels
    bit_accuracy: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]


def capacity(width: int, height: int) -> int:
    """Return the number of blocks, and so the maximum number of bits, of an image of this size."""
    return (width // SIDE) * (height // SIDE)


def embed(pixels: Pixels, payload: bytes, method: Method = Method.DWT_DCT_SVD) -> Pixels:
    """Return a copy of (H, W, 3) or (N, H, W, 3) uint8 RGB images that carry the payload, first bit first.

    Each image is independent of the others. Blocks that can't hold their bit lower the `bit_accuracy`. Raises
    MarkTooSmallError.
    """
    bits = _bits(payload)
    _check_room(pixels, len(bits))
    rows, columns = pixels.shape[-3] // SIDE, pixels.shape[-2] // SIDE
    wanted = np.resize(bits, (rows, columns))
    return _embedders[method](pixels.reshape(-1, *pixels.shape[-3:]), wanted).reshape(pixels.shape)


def read(pixels: Pixels, payload_bits: int, method: Method = Method.DWT_DCT_SVD) -> Pixels:
    """Read (payload_bits,) bits, 0 or 1, from an image, or (N, payload_bits) from a batch.

    Any image yields bits; whether it carries a watermark follows only from a comparison. Raises MarkTooSmallError.
    """
    return _decided(_shares(pixels, payload_bits, method))


def examine(pixels: Pixels, payload: bytes, method: Method = Method.DWT_DCT_SVD) -> MarkReading:
    """Read (H, W, 3) or (N, H, W, 3) uint8 RGB and compare with the payload. Raises MarkTooSmallError."""
    expected = _bits(payload)
    shares = _shares(pixels, len(expected), method)
    bits = _decided(shares)
    accuracy, confidence = (bits == expected).mean(axis=-1), np.abs(shares).mean(axis=-1)
    return MarkReading(bits, np.asarray(accuracy), np.asarray(confidence))


def bit_accuracy(
    pixels: Pixels, payload: bytes, method: Method = Method.DWT_DCT_SVD
) -> npt.NDArray[np.float64]:
    """Return the share, 0 to 1, of the payload's bits that are read from an image; about 0.5 without a watermark.

    The shape is () for (H, W, 3) uint8 RGB, and (N,) for a batch. Raises MarkTooSmallError.
    """
    return examine(pixels, payload, method).bit_accuracy


def _bits(payload: bytes) -> Pixels:
    return np.unpackbits(np.frombuffer(payload, np.uint8))


def _shares(pixels: Pixels, bits: int, method: Method) -> npt.NDArray[np.float64]:
    """Return for each bit the mean vote of its blocks, -1 to 1.

    With dwtDctSvd, a block's vote is weighted by how clearly it reads; the package weights all blocks equally, which
    loses more after lossy compression. With dwtDct, all votes have equal weight, so that the result equals the
    package's.
    """
    _check_room(pixels, bits)
    found = _voters[method](pixels.reshape(-1, *pixels.shape[-3:]))
    votes = found.reshape(len(found), -1)
    index = np.arange(votes.shape[1]) % bits
    sums = np.stack([np.bincount(index, row, bits) for row in votes])
    return (sums / np.bincount(index, minlength=bits)).reshape(*pixels.shape[:-3], bits)


def _decided(shares: npt.NDArray[np.float64]) -> Pixels:
    return (shares > _EVEN).astype(np.uint8)


def _check_room(pixels: Pixels, bits: int) -> None:
    height, width = pixels.shape[-3:-1]
    room = capacity(width, height)
    if not 0 < bits <= room:
        raise MarkTooSmallError(
            f"{width}x{height} pixels hold a mark of 1 to {room} bits, not {bits}: "
            "render larger, or take a shorter mark"
        )


_embedders: dict[Method, Callable[[Pixels, Pixels], Pixels]] = {
    Method.DWT_DCT: dwt_dct.embed,
    Method.DWT_DCT_SVD: dwt_dct_svd.embed,
}
_voters: dict[Method, Callable[[Pixels], Floats]] = {
    Method.DWT_DCT: dwt_dct.votes,
    Method.DWT_DCT_SVD: dwt_dct_svd.votes,
}
