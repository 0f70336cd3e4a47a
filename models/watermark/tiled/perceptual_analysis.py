"""What the tiled mark's embedder and reader look at: a frame of fixed area, its detail, and where changes are masked.

A frame is the luma (ITU-R BT.601) of a picture, resized to the area of 512 x 512 pixels; of small ones, to less. Its
local variance says how strongly a change is masked, as in the contrast term of SSIM (Wang et al. 2004).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.watermark.blocks import Pixels

Floats = npt.NDArray[np.float32]

FRAMES = (512, 256, 128)
"""Sides of squares of the frames' areas: the mark is put into the one that is next to the picture's own size."""
EXPONENTS = (1.0, 0.75, 0.5, 0.25)
"""Powers of `masked` that a mark may follow: 1 where the eye is the limit, less where the size of the change is."""
_SSIM_C2 = 58.5225  # (0.03 * 255)²
_FINE, _COARSE = 0.7, 1.6
_VARIANCE_SIGMA, _ENERGY_SIGMA = 3.0, 2.5
_LEAST_ENERGY = 1.96
_CLIP = 2.5
_CELL = 4


@dataclass(frozen=True)
class Analysis:
    """The detail of a frame (h, w), divided by its local energy; that `energy`, and the change that is `masked`.

    The last two are of cells of 4 x 4 pixels: (h / 4, w / 4), rounded up.
    """

    detail: Floats
    energy: Floats
    masked: Floats

    def weight(self, exponent: float) -> Floats:
        """Return how a mark that follows this power of `masked` is weighted when it is read, with a mean of 1."""
        found: Floats = self.masked ** np.float32(exponent) / self.energy
        found /= found.mean()
        return found

    def by_pixel(self, cells: Floats) -> Floats:
        """Interpolate a value of each cell to (h, w)."""
        height, width = self.detail.shape
        found: Floats = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
        return found


def luma_of(pixels: Pixels) -> Floats:
    """Return the luma of (H, W, 3) uint8 RGB, 0 to 255."""
    found: Floats = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return found


def frame_side(height: int, width: int) -> int:
    """Return which of FRAMES the mark of a picture of this size is put into."""
    side = (height * width) ** 0.5
    return next((each for each in FRAMES[:-1] if side >= 0.75 * each), FRAMES[-1])


def framed(luma: Floats, side: float) -> Floats:
    """Resize (H, W) to the area of a square of this side."""
    height, width = luma.shape
    ratio = (height / width) ** 0.5
    return resized(luma, round(side * ratio), round(side / ratio))


def resized(plane: Floats, height: int, width: int) -> Floats:
    """Resize a plane: averaging where it becomes smaller, bicubic where it becomes larger."""
    if plane.shape == (height, width):
        return plane
    method = cv2.INTER_AREA if height * width < plane.size else cv2.INTER_CUBIC
    found: Floats = cv2.resize(plane, (width, height), interpolation=method)
    return found


def analysed(frame: Floats) -> Analysis:
    """Look at a frame."""
    mean = _blurred(frame, _VARIANCE_SIGMA)
    variance = np.maximum(_blurred(frame * frame, _VARIANCE_SIGMA) - mean * mean, 0)
    high = _fine_blur(frame, _FINE) - _fine_blur(frame, _COARSE)
    energy = np.sqrt(_blurred(high * high, _ENERGY_SIGMA) + np.float32(_LEAST_ENERGY))
    height, width = frame.shape
    high /= cv2.resize(energy, (width, height), interpolation=cv2.INTER_LINEAR)
    detail = np.clip(high, -_CLIP, _CLIP)
    return Analysis(detail, energy, np.sqrt(2 * variance + np.float32(_SSIM_C2)))


def response(frequencies: npt.NDArray[np.floating]) -> Floats:
    """Return by how much the detail weakens frequencies, in cycles a pixel of the frame."""

    def gaussian(sigma: float) -> Floats:
        found: Floats = np.exp(-2 * (np.pi * sigma * frequencies) ** 2).astype(np.float32)
        return found

    passed: Floats = gaussian(_FINE) - gaussian(_COARSE)
    return passed


def _fine_blur(plane: Floats, sigma: float) -> Floats:
    found: Floats = cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return found


def _blurred(plane: Floats, sigma: float) -> Floats:
    """Return the blurred plane by cell: what is left after the blur has no detail that would need a finer grid."""
    height, width = plane.shape
    cells = cv2.resize(plane, (-(-width // _CELL), -(-height // _CELL)), interpolation=cv2.INTER_AREA)
    left = (sigma**2 - (_CELL**2 - 1) / 12) ** 0.5 / _CELL  # of the blur: averaging over cells is one, too
    return _fine_blur(cells, left)
