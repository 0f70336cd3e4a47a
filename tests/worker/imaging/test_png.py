"""Our PNG files, read by others, and their size beside Pillow's."""

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.imaging.png import Pixels, encode_png


def photograph(height: int, width: int) -> Pixels:
    """Soft shapes of all sizes with fine grain."""
    rng = np.random.default_rng(height * width)
    image = rng.normal(scale=2, size=(height, width, 3)) + 128
    for power in range(1, 9):
        coarse = rng.normal(size=(2**power, 2**power, 3))
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / power
    return np.clip(image, 0, 255).astype(np.uint8)


def drawing(height: int, width: int) -> Pixels:
    canvas = np.full((height, width, 3), 230, np.uint8)
    centre = (width // 2, height // 2)
    return np.asarray(cv2.circle(canvas, centre, min(centre), (200, 20, 20), -1, cv2.LINE_AA))


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (64, 64), (200, 333)])
@pytest.mark.parametrize("draw", [photograph, drawing, noise])
def test_the_same_pixels_come_back(draw: Callable[[int, int], Pixels], size: tuple[int, int]) -> None:
    pixels = draw(*size)
    before = pixels.copy()
    body = encode_png(pixels, PngInfo())
    assert np.array_equal(pixels, before)
    with Image.open(io.BytesIO(body)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), pixels)
    opened = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(opened, cv2.COLOR_BGR2RGB), pixels)
    assert encode_png(pixels, PngInfo()) == body


@pytest.mark.parametrize("draw", [photograph, drawing, noise])
def test_files_are_hardly_larger_than_pillows(draw: Callable[[int, int], Pixels]) -> None:
    pixels, file = draw(512, 512), io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(encode_png(pixels, PngInfo())) <= 1.15 * len(file.getvalue())


@pytest.mark.parametrize("draw", [photograph, drawing])
def test_texts_are_in_the_file(draw: Callable[[int, int], Pixels]) -> None:
    text = PngInfo()
    text.add_text("parameters", "a fox")
    text.add_text("other", "狐")
    with Image.open(io.BytesIO(encode_png(draw(64, 64), text))) as image:
        assert image.info == {"parameters": "a fox", "other": "狐"}
