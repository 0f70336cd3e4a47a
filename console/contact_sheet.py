"""Render the contact sheet: a grid of a batch's pictures with their prompts."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from jobs.storage.open import ObjectStore
from models.provenance.image_claim import SourceType
from models.provenance.xmp import PNG_KEYWORD, source_type_xmp

COLUMNS = 8
CELL = 160
CAPTION = 34
GAP = 10
HEADER = 40
PIXEL_LIMIT = 64_000_000
INK, PALE, PAPER = (24, 24, 27), (113, 113, 122), (250, 250, 249)


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet: its object key and its caption."""

    key: str
    caption: str


def contact_sheet(store: ObjectStore, tiles: Sequence[Tile], title: str) -> bytes:
    """Return a PNG of the tiles in rows of eight, each picture fitted into 160 px above two lines of its caption."""
    columns = min(COLUMNS, max(1, len(tiles)))
    rows = -(-len(tiles) // columns)
    width = max(3, columns) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + rows * (CELL + CAPTION + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 12), _fit(draw, title, width - 2 * GAP, _font(16)), INK, font=_font(16))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        corner = GAP + column * (CELL + GAP), HEADER + row * (CELL + CAPTION + GAP)
        sheet.paste(_thumbnail(store.get(tile.key)), corner)
        _write(draw, tile.caption, (corner[0], corner[1] + CELL + 4))
    return _png(sheet)


def evenly(count: int, most: int) -> list[int]:
    """Return up to `most` positions evenly spread over `count` items, including the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _thumbnail(body: bytes) -> Image.Image:
    with Image.open(io.BytesIO(body)) as image:
        if image.width * image.height > PIXEL_LIMIT:
            return Image.new("RGB", (CELL, CELL), PALE)
        resample = Image.Resampling.LANCZOS if max(image.size) > CELL else Image.Resampling.NEAREST
        fitted = ImageOps.contain(image.convert("RGB"), (CELL, CELL), resample)
    return ImageOps.pad(fitted, (CELL, CELL), color=PAPER)


def _write(draw: ImageDraw.ImageDraw, caption: str, corner: tuple[int, int]) -> None:
    font = _font(11)
    words = " ".join(caption.split())
    first = words
    while first and draw.textlength(first, font=font) > CELL:
        first = first[: first.rfind(" ")] if " " in first else first[:-1]
    second = words[len(first) :].strip()
    draw.text(corner, first, INK, font=font)
    draw.text((corner[0], corner[1] + 14), _fit(draw, second, CELL, font), PALE, font=font)


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _png(sheet: Image.Image) -> bytes:
    body, chunks = io.BytesIO(), PngInfo()
    chunks.add_itxt(PNG_KEYWORD, source_type_xmp(SourceType.EDITED))
    sheet.save(body, "PNG", compress_level=6, pnginfo=chunks)
    return body.getvalue()
