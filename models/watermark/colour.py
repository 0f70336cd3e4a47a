"""OpenCV's conversion between RGB and YUV of batches; the watermark's bits depend on its rounding."""

import cv2
import numpy as np
import numpy.typing as npt

from models.watermark.blocks import Pixels


def to_yuv(pixels: Pixels) -> Pixels:
    """Convert (N, H, W, 3) uint8 RGB to YUV of the same shape and type."""
    yuv: Pixels = cv2.cvtColor(_stacked(pixels), cv2.COLOR_RGB2YUV)
    return yuv.reshape(pixels.shape)


def u_of(yuv: Pixels) -> Pixels:
    """Return the U channel, (N, H, W) uint8 and contiguous, of (N, H, W, 3) YUV."""
    u: Pixels = cv2.extractChannel(_stacked(yuv), 1)
    return u.reshape(yuv.shape[:3])


def to_rgb(yuv: Pixels, u: Pixels) -> Pixels:
    """Convert (N, H, W, 3) YUV to RGB, with the U channel replaced by `u` (N, H, W)."""
    replaced = cv2.insertChannel(u.reshape(-1, u.shape[2]), _stacked(yuv), 1)
    rgb: Pixels = cv2.cvtColor(replaced, cv2.COLOR_YUV2RGB)
    return rgb.reshape(yuv.shape)


def add_green_and_blue(pixels: Pixels, green: npt.NDArray[np.int8], blue: npt.NDArray[np.int8]) -> Pixels:
    """Add (N, H, W) int8 to the green and the blue of (N, H, W, 3) uint8 RGB, with saturation."""
    count, height, width = green.shape
    planes = np.zeros_like(green), green, blue
    change = cv2.merge([plane.reshape(count * height, width) for plane in planes]).reshape(-1, 3 * width)
    more = cv2.max(change, 0.0)
    added = cv2.add(pixels.reshape(change.shape), more.view(np.uint8))
    changed: Pixels = cv2.subtract(added, (more - change).view(np.uint8))
    return changed.reshape(pixels.shape)


def _stacked(pixels: Pixels) -> Pixels:
    """Stack the images vertically into one."""
    count, height, width, channels = pixels.shape
    return np.ascontiguousarray(pixels).reshape(count * height, width, channels)
