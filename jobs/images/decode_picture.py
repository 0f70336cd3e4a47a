"""Decodes PNG, JPEG and WebP files of unknown origin, within limits."""

import io
import struct
import zlib

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
