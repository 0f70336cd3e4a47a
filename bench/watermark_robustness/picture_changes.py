"""What becomes of pictures on their way: compression, other sizes, other colours, crops, turns."""

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image

from models.watermark.blocks import Pixels

Change = Callable[[Pixels], Pixels]


def _encoded(format_: str, **options: Any) -> Change:
    def change(pixels: Pixels) -> Pixels:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format_, **options)
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))

    return change


def _scaled(by: float) -> Change:
    def change(pixels: Pixels) -> Pixels:
        size = round(pixels.shape[1] * by), round(pixels.shape[0] * by)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))

    return change


def _stretched(contrast: float, around: float) -> Change:
    return lambda pixels: np.clip((pixels.astype(np.float32) - around) * contrast + around, 0, 255).astype(
        np.uint8
    )


def _cropped(share: float) -> Change:
    """Cut a margin of this share of each length off at each side."""

    def change(pixels: Pixels) -> Pixels:
        down, right = (round(length * share) for length in pixels.shape[:2])
        return np.ascontiguousarray(pixels[down : len(pixels) - down, right : pixels.shape[1] - right])

    return change


def _turned(degrees: float) -> Change:
    def change(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
        turned: Pixels = cv2.warpAffine(
            pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        return turned

    return change


def _noisy(sigma: float) -> Change:
    rng = np.random.default_rng(3)
    return lambda pixels: np.clip(np.rint(pixels + sigma * rng.standard_normal(pixels.shape)), 0, 255).astype(
        np.uint8
    )


def _blurred(pixels: Pixels) -> Pixels:
    found: Pixels = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    return found


def one_after_the_other(*changes: Change) -> Change:
    """Return what makes these changes in their order."""

    def change(pixels: Pixels) -> Pixels:
        for each in changes:
            pixels = each(pixels)
        return pixels

    return change


_half, _jpeg_75, JPEG_80 = _scaled(0.5), _encoded("JPEG", quality=75), _encoded("JPEG", quality=80)

ALIGNED: dict[str, Change] = {
    "png": lambda pixels: pixels,
    "jpeg_75": _jpeg_75,
    "jpeg_50": _encoded("JPEG", quality=50),
    "jpeg_30": _encoded("JPEG", quality=30),
    "webp_80": _encoded("WEBP", quality=80),
    "half_size": _half,
    "half_size_jpeg_75": one_after_the_other(_half, _jpeg_75),
    "brighter": _stretched(1.2, 0),
    "darker": _stretched(0.8, 0),
    "contrast_up": _stretched(1.2, 128),
    "contrast_down": _stretched(0.8, 128),
    "blur": _blurred,
    "noise": _noisy(3),
}
"""Changes after which the mark lies where it was."""

SEARCHED: dict[str, Change] = {
    "crop_10": _cropped(0.1),
    "screenshot": one_after_the_other(_scaled(0.75), JPEG_80, _cropped(0.05)),
    "mirror": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "turn_1": _turned(1.1),
    "turn_2": _turned(-2),
}
"""Changes after which it has to be searched for."""
