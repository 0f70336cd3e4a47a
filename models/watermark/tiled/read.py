"""Reads the tiled mark of pictures of any size that are neither cropped nor turned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.watermark.blocks import Pixels
from models.watermark.tiled.convolutional_code import SYMBOLS, Bits, decode
from models.watermark.tiled.keyed_carriers import TILE, Carriers, Complex, carriers, parts_of
from models.watermark.tiled.perceptual_analysis import (
    EXPONENTS,
    FRAMES,
    Floats,
    analysed,
    frame_side,
    framed,
    luma_of,
    response,
)
from models.watermark.tiled.tile_frequencies import folded, frequencies

_CLIP = 2.0
_NEIGHBOURS = np.array([0.25, 0.5, 1, 0.5, 0.25])
_LEAST_TRUST = 0.02
_TINY = 1e-12
_MORE_PATHS = (4, 16)
LEAST_PILOT = 3.5
"""A mark whose pilot is as sure as that is looked for among the likeliest readings, not only in the first."""


@dataclass(frozen=True)
class Reading:
    """What was read: (64,) bits, whether their checksum fits, and how surely the pilot was found.

    It was looked for among the `tried` likeliest ones. Of a mark that is too damaged to be read, one of these has a
    checksum that fits by chance with a probability of tried / 2¹⁶, and the key's number, as most of its bits are right.

    In a picture that knows nothing of the key, `pilot` is above x with a probability of at most 12 exp(-x² / 2): the
    phases are random, and there are up to 12 forms that the mark may have (Hoeffding 1963).
    """

    payload: Bits
    is_intact: bool
    pilot: float
    tried: int = 1


def read(pixels: Pixels, key: bytes) -> Reading:
    """Read (H, W, 3) uint8 RGB."""
    at, luma = carriers(key), luma_of(pixels)
    # A picture that was made smaller has its mark in a larger frame than its own.
    frames = [side for side in FRAMES if side >= frame_side(*luma.shape)]
    found = [amplitudes for side in frames for amplitudes in amplitudes_of(framed(luma, side), at)]
    return reading_of(max(found, key=lambda amplitudes: pilot_statistic(amplitudes, at)), at)


def amplitudes_of(frame: Floats, at: Carriers, exponents: Sequence[float] = EXPONENTS) -> Iterator[Complex]:
    """Return what is found at the carriers, for each form that the mark may have."""
    seen = analysed(frame)
    for exponent in exponents:
        yield whitened(frequencies(folded(seen.detail * seen.by_pixel(seen.weight(exponent))), at), at)


def reading_of(amplitudes: Complex, at: Carriers) -> Reading:
    """Decode whitened amplitudes (n,)."""
    soft, pilot = soft_symbols(amplitudes, at)[None], pilot_statistic(amplitudes, at)
    tried = 1
    payload, is_intact = decode(soft)
    for more in _MORE_PATHS if pilot >= LEAST_PILOT else ():
        if not is_intact[0]:
            tried = more
            payload, is_intact = decode(soft, tried)
    return Reading(payload[0], bool(is_intact[0]), pilot, tried)


def soft_symbols(amplitudes: Complex, at: Carriers) -> Floats:
    """Return what whitened amplitudes (n,) say of each symbol: (352,), below 0 for 0 and above 0 for 1."""
    trusted = (amplitudes * _trust(amplitudes, at)[at.rings])[at.pilots :]
    return np.bincount(at.symbols, parts_of(trusted), SYMBOLS).astype(np.float32)


def whitened(found: Complex, at: Carriers) -> Complex:
    """Divide amplitudes (n,) by what the detail leaves of them, and each ring by its mean; cut off the largest."""
    plain = found / response(at.radii / TILE)
    power = np.bincount(at.rings, np.abs(plain) ** 2) / np.bincount(at.rings)
    plain /= np.sqrt(np.maximum(power, _TINY)).astype(np.float32)[at.rings]
    cut: Complex = (plain * np.minimum(1, _CLIP / np.maximum(np.abs(plain), _TINY))).astype(np.complex64)
    return cut


def pilot_statistic(amplitudes: Complex, at: Carriers) -> float:
    """Return the sum of the pilots' real parts in units of its deviation without a mark."""
    pilots = amplitudes[: at.pilots]
    power = float((np.abs(pilots) ** 2).sum()) / 2
    return float(pilots.real.sum()) / power**0.5 if power else 0.0


def _trust(amplitudes: Complex, at: Carriers) -> Floats:
    """Return for each ring how much of the mark is left there, by its pilots and those of the rings around it."""
    pilots, rings = amplitudes[: at.pilots].real, at.rings[: at.pilots]
    count = int(at.rings.max()) + 1
    sums = np.convolve(np.bincount(rings, pilots, count), _NEIGHBOURS, "same")
    numbers = np.convolve(np.bincount(rings, minlength=count), _NEIGHBOURS, "same")
    return np.maximum(sums / numbers, _LEAST_TRUST).astype(np.float32)
