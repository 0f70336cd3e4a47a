"""Finds the tiled mark in pictures that were cropped, scaled, mirrored or turned by a few degrees, and reads it.

The tile repeats, so that a crop shifts it and nothing else: for each scale (and angle), one inverse FFT of the pilot
tells how surely it is there at each of the 128 x 128 shifts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np

from models.watermark.blocks import Pixels
from models.watermark.tiled.keyed_carriers import TILE, Carriers, Complex, carriers
from models.watermark.tiled.perceptual_analysis import (
    EXPONENTS,
    FRAMES,
    Floats,
    analysed,
    frame_side,
    framed,
    luma_of,
)
from models.watermark.tiled.read import Reading, pilot_statistic, reading_of, whitened
from models.watermark.tiled.tile_frequencies import folded, frequencies

LEAST_KEPT = 0.25
"""Share of the area that a crop may leave."""
_SCALES = np.geomspace(1, LEAST_KEPT**0.5, 140).tolist()
_TURNED_SCALES = [scale for scale in _SCALES if scale >= 0.85][::2]
_ANGLES = (-2.0, -1.6, -1.2, -0.8, -0.4, 0.4, 0.8, 1.2, 1.6, 2.0)
_LARGEST_SIDE = 4 * FRAMES[0]
_SURE = 8.0
_TRIED = 4
"""Places that are looked at more closely."""
_NEAR_SCALES = (1.0, 0.99875, 1.00125, 0.9975, 1.0025)
_NEAR_ANGLES = (0.0, -0.1, 0.1, -0.2, 0.2)
_NEAR_SHIFTS = np.linspace(-0.6, 0.6, 7)
_SEARCHED_EXPONENT = 0.5


@dataclass(frozen=True)
class Place:
    """Where a mark may lie: the side of the frame, degrees to turn, pixels of the frame to shift."""

    side: float
    angle: float
    is_mirrored: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    pilot: float = 0.0


def search(pixels: Pixels, key: bytes) -> tuple[Reading, Place]:
    """Return the surest reading of (H, W, 3) uint8 RGB, and where it was found."""
    luma, at = luma_of(_reduced(pixels)), carriers(key)
    frames = [side for side in FRAMES if side >= frame_side(*luma.shape)]
    upright = [(side * scale, 0.0) for side in frames for scale in _SCALES]
    found = _best(_peaks(luma, at, upright))
    if found[0].pilot < _SURE:
        turned = [(frames[0] * scale, angle) for scale in _TURNED_SCALES for angle in _ANGLES]
        found = _best([*found, *_peaks(luma, at, turned)])
    return max(
        (_closely(luma, at, place) for place in found), key=lambda each: (each[0].is_intact, each[0].pilot)
    )


def _reduced(pixels: Pixels) -> Pixels:
    """Make a large picture smaller once, not for each place: all frames are smaller still."""
    height, width = pixels.shape[:2]
    scale = _LARGEST_SIDE / (height * width) ** 0.5
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    found: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return found


def _best(places: Sequence[Place]) -> list[Place]:
    return sorted(places, key=lambda place: -place.pilot)[:_TRIED]


def _peaks(luma: Floats, at: Carriers, turns: Sequence[tuple[float, float]]) -> list[Place]:
    """Return the surest shift for each side of a frame and angle, mirrored and not."""
    places = []
    for side, angle in turns:
        tile = _tile(luma, side, angle, _SEARCHED_EXPONENT)
        for is_mirrored in (False, True):
            amplitudes = whitened(frequencies(_flipped(tile, is_mirrored), at), at)
            places.append(Place(side, angle, is_mirrored, *_peak(amplitudes, at)))
    return places


def _flipped(tile: Floats, is_mirrored: bool) -> Floats:
    return tile[:, ::-1] if is_mirrored else tile


def _tile(luma: Floats, side: float, angle: float, exponent: float) -> Floats:
    frame = framed(luma, side)
    if angle:
        size = frame.shape[1], frame.shape[0]
        turn = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), angle, 1)
        frame = cv2.warpAffine(frame, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    seen = analysed(frame)
    return folded(seen.detail * seen.by_pixel(seen.weight(exponent)))


def _peak(amplitudes: Complex, at: Carriers) -> tuple[tuple[float, float], float]:
    """Return the shift at which the pilot is surest, and how sure."""
    pilots = amplitudes[: at.pilots]
    spectrum = np.zeros((TILE, TILE), np.complex64)
    spectrum[at.rows[: at.pilots], at.columns[: at.pilots]] = pilots
    sums = np.fft.ifft2(spectrum).real * (TILE * TILE)
    place = np.unravel_index(int(sums.argmax()), sums.shape)
    power = float((np.abs(pilots) ** 2).sum()) / 2
    return (float(place[0]), float(place[1])), float(sums[place]) / power**0.5 if power else 0.0


def _closely(luma: Floats, at: Carriers, place: Place) -> tuple[Reading, Place]:
    """Look around a place, and read where the pilot is surest."""
    angles = _NEAR_ANGLES if place.angle else (0.0,)
    near = [
        replace(place, side=place.side * scale, angle=place.angle + turn)
        for scale, turn in product(_NEAR_SCALES, angles)
    ]
    best = max(
        (_aligned(luma, at, each, _SEARCHED_EXPONENT) for each in near), key=lambda found: found[0].pilot
    )
    ends = [_aligned(luma, at, best[0], exponent) for exponent in EXPONENTS]
    place, amplitudes = max(ends, key=lambda found: found[0].pilot)
    return reading_of(amplitudes, at), place


def _aligned(luma: Floats, at: Carriers, place: Place, exponent: float) -> tuple[Place, Complex]:
    tile = _tile(luma, place.side, place.angle, exponent)
    amplitudes = whitened(frequencies(_flipped(tile, place.is_mirrored), at), at)
    (row, column), _ = _peak(amplitudes, at)
    shifts = [(row + y, column + x) for y, x in product(_NEAR_SHIFTS, _NEAR_SHIFTS)]
    turned = [amplitudes[: at.pilots] * _phases(at, shift)[: at.pilots] for shift in shifts]
    pilots = [pilot_statistic(each, at) for each in turned]
    best = int(np.argmax(pilots))
    return (
        replace(place, shift=shifts[best], pilot=pilots[best]),
        (amplitudes * _phases(at, shifts[best])).astype(np.complex64),
    )


def _phases(at: Carriers, shift: tuple[float, float]) -> Complex:
    """Return by what amplitudes are multiplied to move the tile back."""
    turn = (at.signed_rows * shift[0] + at.signed_columns * shift[1]) / TILE
    found: Complex = np.exp(2j * np.pi * turn).astype(np.complex64)
    return found
