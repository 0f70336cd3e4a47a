"""The keys that nightmill writes below an output: a batch's images, its export, its contact sheet.

What a store holds by any other key is somebody else's, and stays.
"""

import re
from dataclasses import dataclass

CONTACT_SHEET = "contact-sheet.png"
EXPORT = "export"
IMAGES = "images"

_IMAGE = re.compile(r"([^/]+)/images/([0-9]+)/([0-9]{1,18})-([0-9]{1,9})\.([0-9a-f]{12})\.[a-z]+")
_PART = re.compile(r"part-[0-9]{5,}\.(parquet|jsonl)")
_FOLDER = re.compile(r"[^/]+(/images(/[0-9]+)?|/export)?")


@dataclass(frozen=True)
class ImageKey:
    """What an image's key says: whose image it is, and the begin of the file's SHA-256."""

    batch: str
    ordinal: int
    index: int
    digest: str


def image_key(batch: str, ordinal: int, index: int, sha256: str, extension: str) -> str:
    """`<batch>/images/<shard>/<ordinal>-<index>.<sha256's first 12>.<ext>`; sorts as the manifest does."""
    return f"{batch}/images/{ordinal // 1000:06d}/{ordinal:09d}-{index:05d}.{sha256[:12]}.{extension}"


def parse_image_key(key: str) -> ImageKey | None:
    """What the key says; None if it is no image's."""
    match = _IMAGE.fullmatch(key)
    return ImageKey(match[1], int(match[3]), int(match[4]), match[5]) if match else None


def is_part(name: str) -> bool:
    """Whether an export's file may have this name."""
    return _PART.fullmatch(name) is not None


def batch_of(key: str) -> str | None:
    """The batch in whose folder an image or an export's file has this key; None if it is no such key."""
    batch, _, rest = key.partition("/")
    if parse_image_key(key) or (rest.startswith(f"{EXPORT}/") and is_part(rest.removeprefix(f"{EXPORT}/"))):
        return batch
    return None


def is_batch_folder(path: str) -> bool:
    """Whether nightmill makes a folder of this path: a batch's, or one of those in it."""
    return _FOLDER.fullmatch(path) is not None
