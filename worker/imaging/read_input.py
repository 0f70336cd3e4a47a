"""Reads input images named in a manifest: from a path or an s3:// URI to pixels, within size limits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.errors import NightmillError, StoreDeniedError, UsageError
from jobs.images.decode_picture import decode_picture, flattened, is_deep
from jobs.input_image_access import (
    MAX_BYTES,
    PictureFolderGoneError,
    PictureRefusedError,
    is_allowed,
    outside,
    read_picture,
)
from jobs.storage.open import MissingObjectError, S3Options, read_object
from worker.health.error_classification import is_host_fault
from worker.item import Pixels


class InputImageError(NightmillError):
    """An input image can't be used, now or later."""


class InputImageUnavailableError(InputImageError):
    """An input image isn't visible on this host, though other hosts may see it."""


class InputImageDeniedError(InputImageError):
    """The store denies access to an input image: the row names what this key may not read."""


class InputImageAccessLostError(InputImageDeniedError):
    """The store denies access to an input image, and by now to another one that was read before."""


def read_bytes(location: str, roots: Sequence[str], s3: S3Options) -> bytes:
    """Return the file's or object's bytes; raises InputImageError if it is missing, too large or outside `roots`.

    Raises InputImageUnavailableError where this host may be the cause, ObjectStoreError when S3 can't be reached or
    refuses the key.
    """
    if not is_allowed(location, roots):
        raise InputImageError(outside(location))
    if location.startswith("s3://"):
        try:
            return read_object(location, MAX_BYTES, s3)
        except (MissingObjectError, UsageError) as error:
            raise InputImageError(str(error)) from None
        except StoreDeniedError as error:
            raise InputImageDeniedError(str(error)) from None
    try:
        return read_picture(location, roots)
    except PictureRefusedError as error:
        is_unavailable = isinstance(error, PictureFolderGoneError) or is_host_fault(error)
        raise (InputImageUnavailableError if is_unavailable else InputImageError)(str(error)) from None


def decode_image(body: bytes, location: str) -> Image.Image:
    """Decode a PNG, JPEG or WebP of at most 64 million pixels, rotated upright; InputImageError names `location`."""
    try:
        return decode_picture(body, location)
    except PictureRefusedError as error:
        raise InputImageError(str(error)) from None


def heights(image: Image.Image) -> Image.Image:
    """Convert to one channel of float32, keeping all bits of 16-bit images."""
    grey = image if is_deep(image) or image.mode == "F" else flattened(image).convert("L")
    return Image.fromarray(np.asarray(grey, dtype=np.float32))


def pixels_of(image: Image.Image) -> Pixels:
    """Return a uint8 array: (height, width, 3) of an RGB image, (height, width) of a grey one."""
    return np.array(image, dtype=np.uint8)


def floats_of(image: Image.Image) -> NDArray[np.float32]:
    """Return a float32 array (height, width)."""
    return np.array(image, dtype=np.float32)
