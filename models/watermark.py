"""The invisible watermark: bits in the blue-difference channel, as `invisible-watermark` reads them.

The scheme is that package's `dwtDctSvd`, as its decoder has it. Of OpenCV's U channel, the low band of a
Haar transform (half the sum of 2x2 pixels) is cut into 4x4 blocks, row by row; block k carries bit k mod n in
its largest singular value s: the bit is 1 where s mod 36 > 18. The DCT is orthonormal and so leaves s alone.
"""

from dataclasses import dataclass

import numpy as np

from models.watermark_blocks import SCALE, SIDE, Floats, Pixels, cut, join, move, singular_values

# How to try again where colours were clipped, as (far, fill): the nearest band once more, then the band on
# the other side, then whichever channel has room.
_RETRIES = ((False, False), (True, False), (False, True), (False, True), (True, True))


class MarkTooSmallError(ValueError):
    """The picture has fewer blocks of 8x8 pixels than the payload has bits."""


@dataclass(frozen=True)
class MarkReading:
    """What was read where a payload was expected.

    `bits` is (n,) uint8 of 0 and 1; `bit_accuracy` the share of them that is as expected; `confidence` the
    mean over the bits of how clearly each was read, from 0 (blocks contradict each other) to 1.
    """

    bits: Pixels
    bit_accuracy: float
    confidence: float


def capacity(width: int, height: int) -> int:
    """Return how many blocks, and so at most how many bits, a picture of this many pixels holds."""
    return (width // SIDE) * (height // SIDE)


def embed(pixels: Pixels, payload: bytes) -> Pixels:
    """Return a copy of an (H, W, 3) uint8 RGB picture that carries the payload, first bit first.

    Blocks that don't read back are tried again in other ways; any that still don't lower the `bit_accuracy`.
    Raises MarkTooSmallError.
    """
    bits = np.unpackbits(np.frombuffer(payload, np.uint8))
    _check_room(pixels, len(bits))
    blocks = cut(pixels)
    wanted = np.resize(bits, blocks.shape[2])
    blocks, holds = move(blocks, wanted, far=False, fill=False)
    for far, fill in _RETRIES:
        todo = np.flatnonzero(~holds)
        if not len(todo):
            break
        blocks[:, :, todo], holds[todo] = move(blocks[:, :, todo], wanted[todo], far=far, fill=fill)
    return join(blocks, pixels)


def read(pixels: Pixels, payload_bits: int) -> Pixels:
    """Return the (payload_bits,) bits, 0 or 1, that an (H, W, 3) uint8 RGB picture carries.

    Any picture gives bits: only a comparison tells whether it was marked. Raises MarkTooSmallError.
    """
    return (_votes(pixels, payload_bits) > 0).astype(np.uint8)


def examine(pixels: Pixels, payload: bytes) -> MarkReading:
    """Read an (H, W, 3) uint8 RGB picture where this payload is expected. Raises MarkTooSmallError."""
    expected = np.unpackbits(np.frombuffer(payload, np.uint8))
    votes = _votes(pixels, len(expected))
    bits = (votes > 0).astype(np.uint8)
    return MarkReading(bits, float((bits == expected).mean()), float(np.abs(votes).mean()))


def bit_accuracy(pixels: Pixels, payload: bytes) -> float:
    """Return the share, 0 to 1, of the payload's bits that the picture reads; about 0.5 without a mark."""
    return examine(pixels, payload).bit_accuracy


def _votes(pixels: Pixels, bits: int) -> Floats:
    """Return for each bit the mean vote of its blocks, -1 to 1; a block counts the more the clearer it reads.

    The package counts every block alike, which loses more after lossy compression.
    """
    _check_room(pixels, bits)
    votes = -np.sin(singular_values(cut(pixels)) * (2 * np.pi / SCALE))
    index = np.arange(len(votes)) % bits
    mean = np.bincount(index, votes, bits) / np.bincount(index, minlength=bits)
    return mean.astype(np.float32)


def _check_room(pixels: Pixels, bits: int) -> None:
    height, width = pixels.shape[:2]
    room = capacity(width, height)
    if not 0 < bits <= room:
        raise MarkTooSmallError(
            f"{width}x{height} pixels hold a mark of 1 to {room} bits, not {bits}: "
            "render larger, or take a shorter mark"
        )
