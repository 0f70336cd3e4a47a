"""Pictures to mark, and what the reference package makes of them."""

import io

import cv2
import numpy as np
import numpy.typing as npt
from imwatermark import WatermarkDecoder
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def picture(width: int, height: int, seed: int, contrast: float = 64) -> Pixels:
    """Clouds of every size, a few flat discs of any colour, some grain: as hard as a photograph or harder."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        cells = random.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        image += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / octave**1.5
    image = 127 + contrast * (image - image.mean()) / image.std()
    for _ in range(6):
        centre = (int(random.integers(width)), int(random.integers(height)))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        cv2.circle(image, centre, int(random.integers(4, max(5, min(width, height) // 5))), colour, -1)
    return np.clip(image + random.normal(size=image.shape) * 2, 0, 255).astype(np.uint8)


def noise(width: int, height: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(width: int, height: int, colour: tuple[int, int, int]) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def chessboard(side: int) -> Pixels:
    """Squares of black and white, 64 pixels wide: a picture whose marks are weak."""
    y, x = np.mgrid[:side, :side] // 64
    return np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=-1)


def bits_of(payload: bytes) -> Pixels:
    return np.unpackbits(np.frombuffer(payload, np.uint8))


def reference_accuracy(pixels: Pixels, payload: bytes) -> float:
    decoder = WatermarkDecoder("bits", 8 * len(payload))
    return float((decoder.decode(pixels[..., ::-1].copy(), "dwtDctSvd") == bits_of(payload)).mean())


def psnr(one: Pixels, other: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
