"""Encodes pixels as PNG, WebP or JPEG files with their generation parameters as metadata, and decodes them."""

import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import assert_never

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jobs.states import ImageFormat
from models.provenance.image_claim import SourceType
from models.provenance.xmp import PNG_KEYWORD, source_type_xmp
from worker.imaging.png import encode_png
from worker.item import Encoded, Pixels

_MAX_PIXELS = 1 << 26
_MAX_JPEG_EXIF = 65533
_UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286


class UnreadableImageError(ValueError):
    """The bytes are no PNG, WebP or JPEG image, are damaged, or hold too many pixels."""


def encode(
    pixels: Pixels,
    format: ImageFormat,
    *,
    quality: int = 95,
    parameters: str | None,
    source_type: SourceType = SourceType.GENERATED,
) -> Encoded:
    """Encode an (H, W, 3) uint8 RGB image; the same input gives the same bytes with the same Pillow and isal.

    `quality` is 1 to 100: PNG ignores it, WebP is lossless at 100, JPEG keeps full chroma resolution. `parameters` are
    written to PNG's text chunk "parameters", else to the EXIF UserComment; those of more than 32,000 characters don't
    fit in a JPEG and are left out. `source_type` is written as XMP.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"a picture is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is 1 to 100, not {quality}")
    format = ImageFormat(format)
    return encoded(_body(pixels, format, quality, parameters, source_type_xmp(source_type)), format)


def encoded(body: bytes, format: ImageFormat) -> Encoded:
    """Return a file with its digest."""
    return Encoded(body, format, format.media_type, format.extension, hashlib.sha256(body).hexdigest())


def _body(pixels: Pixels, format: ImageFormat, quality: int, parameters: str | None, xmp: str) -> bytes:
    image, file = Image.fromarray(pixels), io.BytesIO()
    match format:
        case ImageFormat.PNG:
            return encode_png(pixels, _text_chunks(parameters, xmp))
        case "webp" if quality == 100:
            exif = _exif(parameters)
            image.save(
                file, "WEBP", lossless=True, quality=0, method=0, exact=True, exif=exif, xmp=xmp.encode()
            )
        case ImageFormat.WEBP:
            image.save(file, "WEBP", quality=quality, method=4, exif=_exif(parameters), xmp=xmp.encode())
        case ImageFormat.JPEG:
            exif = _exif_of_jpeg(parameters)
            image.save(file, "JPEG", quality=quality, subsampling="4:4:4", exif=exif, xmp=xmp.encode())
        case _:
            assert_never(format)
    return file.getvalue()


def decode(body: bytes) -> Pixels:
    """Decode a PNG, WebP or JPEG of at most 64 Mi pixels to (H, W, 3) uint8 RGB.

    Raises UnreadableImageError.
    """
    try:
        with Image.open(io.BytesIO(body), formats=("PNG", "WEBP", "JPEG")) as image:
            width, height = image.size
            if width * height <= _MAX_PIXELS:
                return np.array(image.convert("RGB"))
    except _UNREADABLE as error:
        raise UnreadableImageError(f"these {len(body)} bytes can't be read as a picture: {error}") from error
    raise UnreadableImageError(f"a picture of {width}x{height} pixels is larger than any of nightmill's")


def parameters_text(
    prompt: str,
    negative_prompt: str,
    steps: int,
    sampler_label: str,
    guidance_scale: float,
    seed: int,
    width: int,
    height: int,
    model: str,
    model_digest: str,
    upscale: str | None = None,
    strength: float | None = None,
    loras: Sequence[tuple[str, float, str]] = (),
) -> str:
    """Return the generation parameters in the format of the AUTOMATIC1111 web UI, which image viewers read.

    Prompt; "Negative prompt: …" unless empty; then one line of "Name: value" pairs, values with commas quoted.
    `upscale` is the id of the upscaling model, `strength` the denoising strength of image-to-image. `loras` are ids,
    weights and digests; the prompt ends in a tag for each, the syntax by which that web UI applies them.
    """
    tags = "".join(f" <lora:{id}:{weight:g}>" for id, weight, _ in loras)
    pairs = {
        "Steps": str(steps),
        "Sampler": sampler_label,
        "CFG scale": f"{guidance_scale:g}",
        "Seed": str(seed),
        "Size": f"{width}x{height}",
        "Model hash": model_digest[:10],
        "Model": model,
        "Denoising strength": "" if strength is None else f"{strength:g}",
        "Hires upscaler": upscale or "",
        "Lora hashes": ", ".join(f"{id}: {digest[:12]}" for id, _, digest in loras),
        "Version": f"nightmill {nightmill_version()}",
    }
    lines = [_line_breaks(prompt) + tags]
    if negative_prompt:
        lines.append(f"Negative prompt: {_line_breaks(negative_prompt)}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in pairs.items() if value))
    return "\n".join(lines)


@cache
def nightmill_version() -> str:
    """Return the version that files name."""
    return version("nightmill")


def _line_breaks(text: str) -> str:
    return "\n".join(text.splitlines())


def _quoted(value: str) -> str:
    """Quote a value as JSON if it holds characters that would end it early."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:"\n') else value


def _text_chunks(parameters: str | None, xmp: str) -> PngInfo:
    """Return the parameters as tEXt, or iTXt where they aren't Latin-1 (PNG specification, 11.3.3), and XMP as iTXt."""
    chunks = PngInfo()
    chunks.add_itxt(PNG_KEYWORD, xmp)
    if parameters is not None:
        chunks.add_text("parameters", _encodable(parameters))
    return chunks


def _exif(parameters: str | None) -> bytes:
    """Return an EXIF block whose UserComment is UTF-16, in the block's byte order (Exif 2.32, 4.6.5)."""
    if parameters is None:
        return b""
    exif = Image.Exif()
    exif.endian = ">"
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + _encodable(parameters).encode("utf-16-be")
    return exif.tobytes()


def _exif_of_jpeg(parameters: str | None) -> bytes:
    exif = _exif(parameters)
    return exif if len(exif) <= _MAX_JPEG_EXIF else b""


def _encodable(text: str) -> str:
    """Return the text with a question mark for each unpaired surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")
