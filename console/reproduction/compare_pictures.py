"""Compares an image with the one that was rendered again, and tells what differs in how they were made.

Imported where the worker's packages are.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from console.reproduction.row_as_manifest import LEFT_OUT
from jobs.errors import UsageError
from jobs.images.decode_picture import decode_picture, flattened
from jobs.states import ImageFormat, WatermarkMethod
from models.watermark import codec
from models.watermark.blocks import Pixels
from models.watermark.tiled.embed import embed
from models.watermark.tiled.payload import Payload

_COMPARED = (
    *("model_revision", "model_digest", "upscaler_digest", "lora_digest", "init_image_sha256", "device"),
    "batch_rows",
)
_WITHHELD = ("blackened", "blurred")
_OF_FURTHER_CHECKER = "classifier_digest:"
"""How notes in `versions` begin that are of further safety checkers, which are left out."""


def pixels_of(body: bytes, location: str) -> Pixels:
    """Return the (H, W, 3) uint8 RGB pixels of a file. Raises PictureRefusedError."""
    return np.asarray(flattened(decode_picture(body, location)))


def marked_as(pixels: Pixels, record: Mapping[str, Any], keys: Mapping[int, bytes]) -> Pixels:
    """Return unmarked pixels with the mark of an image row. Raises UsageError if its key isn't among `keys`."""
    mark, method = record["watermark"], record["watermark_method"] or WatermarkMethod.DWT_DCT_SVD
    if mark is None:
        return pixels
    if method != WatermarkMethod.TILED:
        return codec.embed(pixels, mark.encode(), codec.Method(method))
    payload = Payload.of_bits(np.unpackbits(np.frombuffer(bytes.fromhex(mark), np.uint8)))
    if payload.key_id not in keys:
        raise UsageError(
            f"the image is marked with key {payload.key_id}, which isn't here: name it with --keys FILE"
        )
    return embed(pixels, payload.bits, keys[payload.key_id])


def compressed_as(pixels: Pixels, format: str, quality: int) -> Pixels:
    """Return the pixels as they read back from a file as workers encode it."""
    if format == ImageFormat.PNG or (format == ImageFormat.WEBP and quality == 100):
        return pixels
    stream = io.BytesIO()
    options: dict[str, Any] = {"subsampling": "4:4:4"} if format == ImageFormat.JPEG else {"method": 4}
    Image.fromarray(pixels).save(stream, format.upper(), quality=quality, **options)
    return pixels_of(stream.getvalue(), "the picture")


def compare(one: Pixels, other: Pixels) -> dict[str, Any]:
    """Return whether two pictures are the same, and else the largest difference in grey levels and its share."""
    if one.shape != other.shape:
        sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (one, other)]
        return {"same_pixels": False, "most_levels": None, "share": 1.0, "sizes": sizes}
    apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
    share = float((apart > 0).any(axis=-1).mean())
    return {"same_pixels": not apart.any(), "most_levels": int(apart.max()), "share": round(share, 6)}


def made_otherwise(record: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what differs in how two images were made, by its name: the first one's value and the other's.

    What changes no pixels isn't told: further safety checkers, which `reproduce` leaves out, and verdicts on images
    that were delivered as they were drawn.
    """
    pairs = {name: [record[name], again[name]] for name in _COMPARED}
    verdicts = [record["safety_verdict"], again["safety_verdict"]]
    pairs |= {"safety_verdict": verdicts} if set(verdicts) & set(_WITHHELD) else {}
    names = [name for name in {**record["versions"], **again["versions"]} if not _is_left_out(name)]
    pairs |= {name: [record["versions"].get(name), again["versions"].get(name)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _is_left_out(name: str) -> bool:
    return name in LEFT_OUT or name.startswith(_OF_FURTHER_CHECKER)
