"""Predicts whether a tiled mark survives compression: the picture's luma is compressed, and the mark looked for in it.

Nothing that was found in the picture itself tells it: JPEG takes from smooth parts what it leaves in textured ones.
"""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from models.watermark.blocks import Pixels
from models.watermark.tiled.convolutional_code import Bits
from models.watermark.tiled.keyed_carriers import Carriers
from models.watermark.tiled.perceptual_analysis import EXPONENTS, frame_side, framed
from models.watermark.tiled.read import amplitudes_of, pilot_statistic, soft_symbols

QUALITY = 75
LEAST_MARGIN = 0.7
"""What the error-correcting code needs, whatever a picture shows (docs/decisions/0055)."""

_LONGEST_JPEG = 65_500


def margin_after_jpeg(pixels: Pixels, symbols: Bits, at: Carriers) -> float:
    """Return how clearly (352,) symbols are left in (H, W, 3) uint8 RGB after JPEG of quality 75.

    It is their mean, of the right sign, in units of their deviation: below LEAST_MARGIN the mark may be lost.
    """
    return _margin(_luma(pixels), frame_side(*pixels.shape[:2]), symbols, at, EXPONENTS)


def margin_after_half_size_and_jpeg(pixels: Pixels, symbols: Bits, at: Carriers, exponent: float) -> float:
    """Return the same after the picture was made half as wide and high, and JPEG of quality 75.

    `exponent` is the one of EXPONENTS that the mark follows.
    """
    height, width = pixels.shape[:2]
    size = max(1, width // 2), max(1, height // 2)
    half = cv2.resize(_luma(pixels), size, interpolation=cv2.INTER_AREA)
    return _margin(half, frame_side(height, width), symbols, at, [exponent])


def _luma(pixels: Pixels) -> Pixels:
    found: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return found


def _margin(luma: Pixels, side: float, symbols: Bits, at: Carriers, exponents: Sequence[float]) -> float:
    if max(luma.shape) > _LONGEST_JPEG:
        return 0.0
    file = cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    compressed = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)
    assert compressed is not None
    frame = framed(compressed.astype(np.float32), side)
    surest = max(amplitudes_of(frame, at, exponents), key=partial(pilot_statistic, at=at))
    right = soft_symbols(surest, at) * (2 * symbols.astype(np.float32) - 1)
    deviation = float(right.std())
    return float(right.mean()) / deviation if deviation else 0.0
