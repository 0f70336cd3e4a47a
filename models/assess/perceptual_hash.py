"""Perceptual hash: 64 bits that stay nearly the same when an image is encoded again, scaled or brightened.

The algorithm is the DCT hash of OpenCV's contrib module `img_hash` (`PHash`), after C. Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2: the image as 32x32 gray values, of their discrete
cosine transform the 8x8 lowest frequencies, and of each whether it is above a threshold. Two things differ: pixels are
averaged, where OpenCV interpolates between four, so that details of large images don't alias; and the threshold is a
quarter of the mean magnitude, where OpenCV's, the mean, is so near 0 that noise decides frequencies that an image
doesn't have. Of copies of plain images 95 % instead of 92 % are then within 4 bits (`bench/shapes.py`). Packages of
OpenCV come without the module.
"""

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_SIDE, _FREQUENCIES = 32, 8
_THRESHOLD = 0.25  # of the mean magnitude


def perceptual_hash(pixels: Pixels) -> str:
    """Return the hash of a (height, width, 3) uint8 RGB image, as 16 hex digits.

    Two images are near each other if few bits of their hashes differ; hashes of different images differ in 32 bits on
    average. Colour is not looked at: what stands out by colour alone, in equal brightness, is hardly seen.
    """
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_FREQUENCIES, :_FREQUENCIES].copy()
    low[0, 0] = 0  # the mean brightness
    return np.packbits(low > _THRESHOLD * np.abs(low).mean()).tobytes().hex()
