"""Decodes PNG, JPEG and WebP files of unknown origin, within limits."""

import io
import re
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.input_image_access import PictureRefusedError

MAX_PIXELS = 64_000_000
# Users are told once what is wrong with a file, and not where Pillow has noticed it.
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("PNG", "JPEG", "WEBP")
_ANIMATED_FORMATS = ("PNG", "WEBP")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker of a JPEG, but for those within the data of a scan."""
_START_OF_SCAN, _END, _WITHOUT_LENGTH = b"\xff\xda", b"\xff\xd9", b"\xff\x01"
_MOST_DECODED = 32 * MAX_PIXELS
"""Pixels of all scans of a progressive JPEG, which may send the same ones over and over: a second's work."""


def decode_picture(body: bytes, location: str) -> Image.Image:
    """Decode a picture of at most 64 million pixels, rotated upright. Raises PictureRefusedError, naming `location`."""
    try:
        with Image.open(io.BytesIO(body), formats=_FORMATS) as image:
            width, height = image.size
            is_jpeg = image.format in ("JPEG", "MPO")
            if is_jpeg and width * height * _scans(body) > _MOST_DECODED:
                raise PictureRefusedError(f"{location} has too many scans; save it as a plain JPEG")
            if width * height <= MAX_PIXELS:
                image.load()
                return ImageOps.exif_transpose(image)
    except PictureRefusedError:
        raise
    except UnidentifiedImageError:
        reason = (
            "is damaged or cut off; copy it again"
            if _has_signature(body)
            else "is no PNG, JPEG or WebP picture"
        )
        raise PictureRefusedError(f"{location} {reason}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureRefusedError(
            f"{location} has more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything for what somebody has made up
        raise PictureRefusedError(f"{location} is damaged or cut off ({error}); copy it again") from None
    raise PictureRefusedError(
        f"{location} has {width}x{height} pixels, more than {MAX_PIXELS:,}; make it smaller"
    )


def flattened(image: Image.Image) -> Image.Image:
    """Convert to RGB, on white where it is transparent; of 16-bit images keep the upper 8 bits."""
    if is_deep(image):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def why_seen_otherwise(body: bytes, image: Image.Image) -> str | None:
    """Return why others may see something else in a file than `flattened` gives of the `image` decoded from it."""
    with Image.open(io.BytesIO(body), formats=_FORMATS) as opened:
        if opened.format in _ANIMATED_FORMATS and getattr(opened, "is_animated", False):
            return "it is animated, and only its first picture was looked at"
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        return "it is transparent, and was looked at on white"
    return None


def _has_signature(body: bytes) -> bool:
    """Return whether a file begins like a PNG, JPEG or WebP file."""
    recognisers = (Image.OPEN[name][1] for name in _FORMATS)
    return any(recognises is not None and recognises(body[:16]) for recognises in recognisers)


def _scans(body: bytes) -> int:
    """Return how many scans the picture of a JPEG has; what follows its end is not looked at."""
    scans, at = 0, 2
    while (found := _MARKER.search(body, at)) and found[0] != _END:
        scans += found[0] == _START_OF_SCAN
        at = found.end()
        if found[0] != _WITHOUT_LENGTH:
            at += int.from_bytes(body[at : at + 2], "big")
    return scans


def is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")
