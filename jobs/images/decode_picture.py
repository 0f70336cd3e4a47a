"""Decodes PNG, JPEG and WebP files of unknown origin, within limits."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.input_image_access import PictureRefusedError

MAX_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "WEBP")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def decode_picture(body: bytes, location: str) -> Image.Image:
    """Decode a picture of at most 64 million pixels, rotated upright. Raises PictureRefusedError, naming `location`."""
    try:
        with Image.open(io.BytesIO(body), formats=_FORMATS) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                image.load()
                return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise PictureRefusedError(f"{location} is no PNG, JPEG or WebP picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureRefusedError(
            f"{location} has more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from None
    except _UNREADABLE as error:
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


def is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")
