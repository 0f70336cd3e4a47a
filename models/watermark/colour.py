"""OpenCV's conversion between RGB and YUV, reproduced exactly, since the watermark's bits depend on its rounding.

Arrays are converted by OpenCV. Tensors are converted with OpenCV's fixed-point arithmetic of 14 fractional bits and the
factors of its `COLOR_RGB2YUV` and `COLOR_YUV2RGB`: those of ITU-R BT.601, rounded.
"""

import cv2
import numpy as np

from models.watermark.array_backend import Array, namespace

_POINT = 14
_TO_Y = (4899, 9617, 1868)
_TO_U, _TO_V = 8061, 14369
_U_TO_B, _U_TO_G, _V_TO_G, _V_TO_R = 33292, -6472, -9519, 18678


def to_yuv(pixels: Array) -> Array:
    """Convert (N, H, W, 3) uint8 RGB to YUV of the same shape and type."""
    if isinstance(pixels, np.ndarray):
        return cv2.cvtColor(_tall(pixels), cv2.COLOR_RGB2YUV).reshape(pixels.shape)
    xp = namespace(pixels)
    red, green, blue = xp.asarray(pixels, dtype=xp.int32).unbind(-1)
    y = _rounded(red * _TO_Y[0] + green * _TO_Y[1] + blue * _TO_Y[2])
    u, v = 128 + _rounded((blue - y) * _TO_U), 128 + _rounded((red - y) * _TO_V)
    return _bytes(xp.stack((y, u, v), -1))


def u_of(yuv: Array) -> Array:
    """Return the U channel, (N, H, W) uint8 and contiguous, of (N, H, W, 3) YUV."""
    if isinstance(yuv, np.ndarray):
        return cv2.extractChannel(_tall(yuv), 1).reshape(yuv.shape[:3])
    return yuv[..., 1].contiguous()


def to_rgb(yuv: Array, u: Array) -> Array:
    """Convert (N, H, W, 3) YUV to RGB, with the U channel replaced by `u` (N, H, W)."""
    if isinstance(yuv, np.ndarray):
        tall = cv2.insertChannel(u.reshape(-1, u.shape[2]), _tall(yuv), 1)
        return cv2.cvtColor(tall, cv2.COLOR_YUV2RGB).reshape(yuv.shape)
    xp = namespace(yuv)
    y, _, v = xp.asarray(yuv, dtype=xp.int32).unbind(-1)
    u, v = xp.asarray(u, dtype=xp.int32) - 128, v - 128
    red, blue = y + _rounded(v * _V_TO_R), y + _rounded(u * _U_TO_B)
    green = y + _rounded(u * _U_TO_G + v * _V_TO_G)
    return _bytes(xp.stack((red, green, blue), -1))


def tinted(pixels: Array, green: Array, blue: Array) -> Array:
    """Add (N, H, W) int8 to the green and the blue of (N, H, W, 3) uint8 RGB, with saturation."""
    if isinstance(pixels, np.ndarray):
        count, height, width = green.shape
        planes = np.zeros_like(green), green, blue
        change = cv2.merge([plane.reshape(count * height, width) for plane in planes]).reshape(-1, 3 * width)
        more = cv2.max(change, 0.0)
        added = cv2.add(pixels.reshape(change.shape), more.view(np.uint8))
        return cv2.subtract(added, (more - change).view(np.uint8)).reshape(pixels.shape)
    xp = namespace(pixels)
    change = xp.stack((xp.zeros_like(green), green, blue), -1)
    return _bytes(xp.asarray(pixels, dtype=xp.int16) + change)


def _tall(pixels: Array) -> Array:
    """Stack the pictures vertically into one."""
    count, height, width, channels = pixels.shape
    return np.ascontiguousarray(pixels).reshape(count * height, width, channels)


def _rounded(fixed: Array) -> Array:
    return (fixed + (1 << _POINT - 1)) >> _POINT


def _bytes(values: Array) -> Array:
    xp = namespace(values)
    return xp.asarray(xp.clip(values, 0, 255), dtype=xp.uint8)
