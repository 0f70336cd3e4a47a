"""Tells whether a picture bears a tiled mark of one of several keys, and what the mark says."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.watermark.blocks import Pixels
from models.watermark.tiled.payload import Payload
from models.watermark.tiled.read import LEAST_PILOT, Reading, read
from models.watermark.tiled.search_cropped_and_turned import Place, search

LONGEST = 256
"""A picture that is longer than so many times its width has no room for a tile, and isn't looked at."""
LEAST_SEARCHED_PILOT = 6.0
"""A search looks at ten million places. With a checksum of 16 bits, of which up to 16 readings are tried, and the key's
number of 8, a picture that knows nothing of the key is taken for marked with a probability below 1e-6:
16 * 12 exp(-3.5² / 2) / 2²⁴ and, for the four places that a search reads, 16 * 4e7 exp(-6² / 2) / 2²⁴ (Hoeffding
1963)."""


@dataclass(frozen=True)
class Mark:
    """A mark that was read in full; `place` is where it was found, None: where it was embedded.

    One that was found among many `tried` readings is to be compared with the picture that it leads to (`read.Reading`).
    """

    payload: Payload
    pilot: float
    place: Place | None
    tried: int = 1


def identify(pixels: Pixels, keys: Mapping[int, bytes], *, searches: bool = True) -> Mark | None:
    """Return the mark of (H, W, 3) uint8 RGB, of keys by their numbers; None if there is none, or it can't be read."""
    if max(pixels.shape[:2]) > LONGEST * min(pixels.shape[:2]):
        return None
    for number, key in keys.items():
        if (mark := _of(read(pixels, key), number, LEAST_PILOT, None)) is not None:
            return mark
    for number, key in keys.items() if searches else ():
        found, place = search(pixels, key)
        if (mark := _of(found, number, LEAST_SEARCHED_PILOT, place)) is not None:
            return mark
    return None


def _of(found: Reading, number: int, least: float, place: Place | None) -> Mark | None:
    payload = Payload.of_bits(found.payload)
    is_sure = found.is_intact and found.pilot >= least and payload.key_id == number
    return Mark(payload, found.pilot, place, found.tried) if is_sure else None
