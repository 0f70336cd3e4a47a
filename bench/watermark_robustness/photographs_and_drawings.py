"""Pictures that marks are tried on: crops of photographs that scikit-image brings, and drawn ones without texture."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from models.watermark.blocks import Pixels

SIDE = 512
_PHOTOGRAPHS = [
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
    "clock_motion.png",
]
_LEAST_SCALE = 0.5
_LETTERS = list("abcdefghij klmnop qrstuvwxyz ")


def photographs(count: int, seed: int = 20261130) -> Iterator[Pixels]:
    """Yield `count` crops of 512 x 512, of random places and scales, every other one mirrored."""
    import skimage  # noqa: PLC0415 - optional

    rng = np.random.default_rng(seed)
    folder = Path(skimage.__file__).parent / "data"
    files = [folder / name for name in _PHOTOGRAPHS]
    for number in range(count):
        with Image.open(files[number % len(files)]) as image:
            pixels = np.asarray(image.convert("RGB"))
        least = SIDE / min(pixels.shape[:2])
        scale = max(least, float(rng.uniform(max(least, _LEAST_SCALE), 1)) if least < 1 else least)
        size = tuple(max(SIDE, round(length * scale)) for length in (pixels.shape[1], pixels.shape[0]))
        scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        top, left = (int(rng.integers(0, length - SIDE + 1)) for length in scaled.shape[:2])
        crop = scaled[top : top + SIDE, left : left + SIDE]
        yield np.ascontiguousarray(crop[:, ::-1] if number % 2 else crop)


def drawings(count: int, seed: int = 20261130) -> Iterator[Pixels]:
    """Yield `count` drawings of 512 x 512: discs on a ground, bar charts, pages of text, colour gradients, in turn."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Callable[[np.random.Generator], Image.Image], ...] = (_disc, _chart, _page, _gradient)
    for number in range(count):
        yield np.asarray(kinds[number % len(kinds)](rng))


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 256, 3))


def _disc(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), _colour(rng))
    x, y, size = (int(value) for value in rng.integers(90, 300, 3))
    ImageDraw.Draw(image).ellipse([x, y, x + size, y + size], fill=_colour(rng))
    return image


def _chart(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    for number, height in enumerate(rng.integers(30, SIDE - 80, 10)):
        left, bottom = 30 + 46 * number, SIDE - 40
        draw.rectangle([left, bottom - int(height), left + 30, bottom], fill=_colour(rng))
    draw.line([20, SIDE - 40, SIDE - 20, SIDE - 40], fill="black", width=2)
    draw.text((40, 10), "images an hour", fill="black")
    return image


def _page(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    for top in range(20, SIDE - 20, 18):
        draw.text((20, top), "".join(rng.choice(_LETTERS, 60)), fill="black")
    return image


def _gradient(rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = 128 + 100 * np.sin(6 * x * float(rng.uniform(1, 6)))
    return Image.fromarray(np.stack([255 * x, 255 * y, waves], axis=-1).astype(np.uint8))
