"""Embeds the tiled mark: spread over the frequencies of a tile, and moved only as far as the picture lacks to be read.

The host's own share of each carrier is known here, so that it is made up for instead of being noise to the reader
("informed embedding": Miller, Doerr, Cox 2004). PSNR and an estimate of SSIM say how strong the mark may be; where that
isn't enough to survive compression, it may be somewhat stronger.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.watermark.blocks import Pixels
from models.watermark.tiled.convolutional_code import Bits, encode
from models.watermark.tiled.keyed_carriers import TILE, Carriers, Complex, Ints, carriers, parts_of
from models.watermark.tiled.perceptual_analysis import (
    EXPONENTS,
    Analysis,
    Floats,
    analysed,
    frame_side,
    framed,
    luma_of,
    resized,
    response,
)
from models.watermark.tiled.predict_survival import LEAST_MARGIN, margin_after_half_size_and_jpeg
from models.watermark.tiled.tile_frequencies import folded, frequencies, tile_of, tiled

_MSE = 255**2 / 10**4.23  # a PSNR of 42.3 dB
_DISSIMILARITIES = (0.0068, 0.0102, 0.0136)
"""Estimates of 1 - SSIM, tried in turn until the mark survives half the size and JPEG."""
_MOST_GAIN = 1.3
_PILOT_ENERGY = 0.18
_BISECTIONS = 30


@dataclass(frozen=True)
class _Mask:
    """How strong the mark is in each cell of the frame, and the power of what is masked there that it follows."""

    cells: Floats
    exponent: float


def embed(pixels: Pixels, payload: Bits, key: bytes) -> Pixels:
    """Return a copy of (H, W, 3) uint8 RGB that carries (64,) bits, 0 or 1, under a key."""
    seen = analysed(framed(luma_of(pixels), frame_side(*pixels.shape[:2])))
    symbols, at = encode(payload), carriers(key)
    marked = pixels
    for dissimilarity in _DISSIMILARITIES:
        mask = _mask(seen, dissimilarity)
        change = _change(seen, mask, symbols, at, dissimilarity)
        marked = _added(pixels, resized(change, *pixels.shape[:2]))
        if margin_after_half_size_and_jpeg(marked, symbols, at, mask.exponent) >= LEAST_MARGIN:
            break
    return marked


def _change(seen: Analysis, mask: _Mask, symbols: Bits, at: Carriers, dissimilarity: float) -> Floats:
    """Return what is to be added to the frame (h, w)."""
    amplitudes = _amplitudes(_host(seen, mask, at), symbols, at)
    change = seen.by_pixel(mask.cells) * tiled(tile_of(amplitudes, at), *seen.detail.shape)
    change *= _gain(change, seen, dissimilarity)
    return change


def _mask(seen: Analysis, dissimilarity: float) -> _Mask:
    """Return the mask that PSNR and SSIM allow.

    Where there is so much texture that PSNR is the limit, the mark is spread more evenly, until SSIM is one as well.
    """
    found = None
    for exponent in EXPONENTS:
        cells = seen.masked ** np.float32(exponent)
        by_error = (_MSE / np.mean(cells**2)) ** 0.5
        by_sight = (dissimilarity / np.mean((cells / seen.masked) ** 2)) ** 0.5
        if found is None or by_error <= by_sight:
            found = _Mask(cells * np.float32(min(by_error, by_sight)), exponent)
        if by_sight < by_error:
            break
    assert found is not None
    return found


def _host(seen: Analysis, mask: _Mask, at: Carriers) -> Complex:
    """Return what the picture itself has at the carriers, in amplitudes of the embedded tile."""
    weight = seen.weight(mask.exponent)
    passed = float(np.mean(weight * mask.cells / seen.energy))
    found = frequencies(folded(seen.detail * seen.by_pixel(weight)), at)
    return (found / (response(at.radii / TILE) * np.float32(passed))).astype(np.complex64)


def _amplitudes(host: Complex, symbols: Bits, at: Carriers) -> Complex:
    """Return the amplitudes to embed: pilots alike, and for each symbol as much as its carriers lack to be read.

    The reader divides each ring of frequencies by its mean amplitude, which is foreseen here.
    """
    energy = TILE * TILE / 2  # of a tile with a mean square of 1, in half of its frequencies
    power = np.bincount(at.rings, np.abs(host) ** 2) / np.bincount(at.rings)
    weights = np.repeat((power[at.rings] + energy / len(host)) ** -0.5, 2)[2 * at.pilots :]
    signs = 2.0 * symbols - 1
    sums = np.bincount(at.symbols, weights * parts_of(host[at.pilots :]))
    lean = sums / np.bincount(at.symbols, weights) * signs
    moves = np.maximum(_level(lean, at.counts, (1 - _PILOT_ENERGY) * energy) - lean, 0) * signs
    pairs = moves[at.symbols].reshape(-1, 2)
    pilots = np.full(at.pilots, (_PILOT_ENERGY * energy / at.pilots) ** 0.5)
    return np.concatenate([pilots, pairs[:, 0] + 1j * pairs[:, 1]]).astype(np.complex64)


def _level(lean: npt.NDArray[np.floating], counts: Ints, energy: float) -> float:
    """Return the level to which all symbols can be moved with this energy; those that are above it stay."""
    low, high = float(lean.min()), float(lean.max()) + (energy / counts.sum()) ** 0.5
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (counts * np.maximum(middle - lean, 0) ** 2).sum() < energy:
            low = middle
        else:
            high = middle
    return low


def _gain(change: Floats, seen: Analysis, dissimilarity: float) -> np.float32:
    """Return what the change is multiplied by to be as strong as it was meant to be, now that it is known."""
    sight = change * seen.by_pixel(np.float32(1) / seen.masked)
    by_error, by_sight = _MSE / np.mean(change * change), dissimilarity / np.mean(sight * sight)
    return np.float32(min(by_error**0.5, by_sight**0.5, _MOST_GAIN))


def _added(pixels: Pixels, change: Floats) -> Pixels:
    """Add (H, W) to each channel, rounded, with saturation."""
    steps = np.rint(change).astype(np.int16)
    more = cv2.merge([np.maximum(steps, 0).astype(np.uint8)] * 3)
    less = cv2.merge([np.maximum(-steps, 0).astype(np.uint8)] * 3)
    found: Pixels = cv2.subtract(cv2.add(pixels, more), less)
    return found
