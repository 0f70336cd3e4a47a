"""Encoding of images with the grain of photographs, compared with Pillow's PNG files."""

import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.results import Figure, at_least, at_most
from jobs.states import ImageFormat
from worker.imaging.encode import encode
from worker.imaging.png import encode_png
from worker.item import Pixels

SIDES = (512, 2048)
_FORMATS = {"png": "a PNG", "webp": "a lossless WebP", "jpeg": "a JPEG of quality 95"}


def measure_files(rounds: int, sides: Sequence[int] = SIDES) -> dict[str, Figure]:
    """Measure how much faster PNG files are written than with Pillow's defaults, and how large they are."""
    return {name: figure for side in sides for name, figure in _files(side, rounds).items()}


def _files(side: int, rounds: int) -> dict[str, Figure]:
    pixels = grainy(side)
    writers: dict[str, Callable[[], bytes]] = {
        "pillow": lambda: _by_pillow(pixels),
        "png": lambda: encode_png(pixels, PngInfo()),
        "webp": lambda: encode(pixels, ImageFormat.WEBP, quality=100, parameters=None).body,
        "jpeg": lambda: encode(pixels, ImageFormat.JPEG, quality=95, parameters=None).body,
    }
    times = take_turns(rounds, {name: _milliseconds(write) for name, write in writers.items()})
    bytes_ = {name: len(write()) for name, write in writers.items()}
    against = f"Pillow's default PNG, {side} x {side}: {times.median('pillow'):,.1f} ms"
    found: dict[str, Figure] = {}
    for name, what in _FORMATS.items():
        is_png = name == "png"
        found |= {
            f"{name}_{side}_per_pillow": Figure(
                times.ratio("pillow", name), "ratio", against, at_least(8) if is_png else None
            ),
            f"{name}_{side}_ms": Figure(times.median(name), "ms", f"{what} of {side} x {side}"),
            f"{name}_{side}_size": Figure(
                bytes_[name] / bytes_["pillow"],
                "ratio",
                "Pillow's default PNG",
                at_most(1.15) if is_png else None,
            ),
        }
    return found


def _milliseconds(write: Callable[[], bytes]) -> Callable[[], float]:
    return lambda: 1000 * seconds(write)


def _by_pillow(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def grainy(side: int) -> Pixels:
    """Return an image of soft shapes of all sizes, with noise of two grey levels."""
    rng = np.random.default_rng(side)
    image = rng.normal(scale=2, size=(side, side, 3)) + 128
    for power in range(1, 10):
        coarse = rng.normal(size=(2**power, 2**power, 3))
        image += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) * 60 / power
    return np.clip(image, 0, 255).astype(np.uint8)
