"""ISCC Image-Codes (ISO 24138:2024): 64 bits that stay nearly the same when a picture is compressed or made smaller."""

import base64
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

_SIDE = 32
_KEPT = 8
BITS = _KEPT * _KEPT
"""Of a code."""
_HEADER = bytes((0x21, 0x01))
"""Content-Code, subtype image; version 0, 64 bits."""
_PREFIX = "ISCC:"


def image_code(pixels: NDArray[np.uint8]) -> str:
    """Return the code of an (H, W, 3) uint8 RGB image, as "ISCC:EEA…".

    As the standard has it: borders of one colour are cut off; of the grey image at 32×32 (bicubic interpolation), the
    8×8 lowest frequencies of the discrete cosine transform are compared with their median.
    """
    small = _without_border(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    rows = np.asarray(small, np.float64)
    lowest = _dct(_dct(rows.T)[:_KEPT].T)[:_KEPT]
    digest = np.packbits(lowest > np.median(lowest)).tobytes()
    return _PREFIX + base64.b32encode(_HEADER + digest).decode().rstrip("=")


def bits_of(code: str) -> int:
    """Return the 64 bits of a code as a number. Raises ValueError if it isn't an Image-Code of 64 bits."""
    body = code.removeprefix(_PREFIX)
    raw = base64.b32decode(body + "=" * (-len(body) % 8))
    if not raw.startswith(_HEADER) or len(raw) != len(_HEADER) + BITS // 8:
        raise ValueError(f"{code} is no ISCC Image-Code of 64 bits")
    return int.from_bytes(raw[len(_HEADER) :], "big")


def _dct(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unscaled DCT-II along the first axis, whose length is a power of two.

    By Lee's recursion ("A new algorithm to compute the discrete cosine transform", 1984), as the reference
    implementation does: another order of the operations would round otherwise, and flat images have other bits then.
    """
    length = len(values)
    if length == 1:
        return values
    first, second = values[: length // 2], values[: length // 2 - 1 : -1]
    even, odd = _dct(first + second), _dct((first - second) / _divisors(length))
    result = np.empty_like(values)
    result[0::2] = even
    result[1:-1:2] = odd[:-1] + odd[1:]
    result[-1] = odd[-1]
    return result


@cache
def _divisors(length: int) -> NDArray[np.float64]:
    places = np.arange(length // 2) + 0.5
    return np.cos(places * np.pi / length)[:, None] * 2.0


def _without_border(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the image without a border that has the colour of the upper left corner."""
    image, corner = Image.fromarray(pixels), pixels[0, 0]
    if all((edge != corner).any() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])):
        return image  # which saves most of the time
    difference = ImageChops.difference(image, Image.new("RGB", image.size, tuple(corner.tolist())))
    box = difference.getbbox()
    return image if box is None else image.crop(box)
