import hashlib
import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from jobs.states import ImageFormat
from worker.imaging.encode import UnreadableImageError, decode, encode, parameters_text
from worker.item import Encoded

FORMATS = list(ImageFormat)
PROMPTS = [
    "a red fox",
    "Füchse, «schnell»",
    "狐狸 🦊 в лесу",
    "one\nline\r\nthen another",
    'say "hello", 50% \\o/',
    "",
]


def picture(width: int = 96, height: int = 64) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return np.clip(np.stack([2 * x, 255 - 2 * x, 3 * y], axis=-1) + noise, 0, 255).astype(np.uint8)


def opened(encoded: Encoded) -> Any:
    image = Image.open(io.BytesIO(encoded.body))
    image.load()
    return image


def parameters_in(encoded: Encoded) -> str | None:
    image = opened(encoded)
    if encoded.format == "png":
        return image.info.get("parameters")
    comment = image.getexif().get_ifd(0x8769).get(0x9286)
    if comment is None:
        return None
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize(("format", "quality"), [("png", 95), ("png", 1), ("webp", 100)])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (513, 7), (768, 512)])
def test_lossless_files_give_the_same_pixels(
    format: ImageFormat, quality: int, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    encoded = encode(pixels, format, quality=quality, parameters="some")
    assert np.array_equal(decode(encoded.body), pixels)


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_lossy_files_come_close(format: ImageFormat) -> None:
    pixels = picture()
    sizes = []
    for quality in (50, 95):
        encoded = encode(pixels, format, quality=quality, parameters=None)
        sizes.append(len(encoded.body))
        assert np.abs(decode(encoded.body).astype(int) - pixels).mean() < 12
    assert sizes[0] < sizes[1] < pixels.nbytes


def test_jpeg_keeps_the_colour_of_every_pixel() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)
    pixels[:, 1::2] = (0, 0, 255)
    back = decode(encode(pixels, "jpeg", parameters=None).body).astype(int)
    assert np.abs(back - pixels).max() < 40


@pytest.mark.parametrize("format", FORMATS)
def test_says_what_the_file_is(format: ImageFormat) -> None:
    encoded = encode(picture(), format, parameters=None)
    assert encoded.sha256 == hashlib.sha256(encoded.body).hexdigest()
    image = opened(encoded)
    assert (image.format.lower(), image.size, image.mode) == (format, (96, 64), "RGB")
    assert encoded.content_type == f"image/{format}" == Image.MIME[image.format]
    assert encoded.extension == {"jpeg": "jpg"}.get(format, format)
    assert parameters_in(encoded) is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_parameters_read_back(format: ImageFormat, prompt: str) -> None:
    assert parameters_in(encode(picture(), format, parameters=prompt)) == prompt


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_input_gives_the_same_bytes(format: ImageFormat) -> None:
    made = {encode(picture(), format, parameters="ä 狐").sha256 for _ in range(3)}
    assert len(made) == 1
    assert encode(picture(), format, parameters="other").sha256 not in made


def test_png_text_is_of_the_kind_that_holds_it() -> None:
    assert b"tEXtparameters\0f\xfcr" in encode(picture(), "png", parameters="für").body
    assert "iTXtparameters\0\0\0\0\0狐".encode() in encode(picture(), "png", parameters="狐").body


def test_odd_parameters_do_not_stop_a_picture() -> None:
    for format in FORMATS:
        assert (
            parameters_in(encode(picture(), format, parameters="half \ud83e of a fox")) == "half ? of a fox"
        )
    long = "狐" * 100_000
    assert parameters_in(encode(picture(), "png", parameters=long)) == long
    assert parameters_in(encode(picture(), "webp", parameters=long)) == long
    assert parameters_in(encode(picture(), "jpeg", parameters=long)) is None


def test_refuses_what_is_no_picture() -> None:
    for wrong in (picture()[..., :1], picture()[..., 0], picture().astype(np.float32)):
        with pytest.raises(ValueError, match=r"a picture is \(H, W, 3\) uint8"):
            encode(wrong, "png", parameters=None)
    for quality in (0, 101):
        with pytest.raises(ValueError, match="quality is 1 to 100"):
            encode(picture(), "jpeg", quality=quality, parameters=None)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")  # of EXIF blocks
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_refused(format: ImageFormat) -> None:
    body = encode(picture(), format, parameters="some").body
    random = np.random.default_rng(2)
    for length in (0, 1, 20, len(body) // 2):
        with pytest.raises(UnreadableImageError, match="can't be read as a picture"):
            decode(body[:length])
    for _ in range(200):
        damaged = bytearray(body)
        for place in random.integers(0, len(body), 5):
            damaged[place] = random.integers(256)
        with suppress(UnreadableImageError):
            assert decode(bytes(damaged)).ndim == 3


def test_other_formats_and_huge_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.gif")
    with pytest.raises(UnreadableImageError, match="can't be read"):
        decode((tmp_path / "a.gif").read_bytes())
    for width, height in ((8192, 8193), (12000, 12000), (30000, 30000)):
        with pytest.raises(UnreadableImageError, match=r"larger|exceeds"):
            decode(claims_to_be(width, height))


def claims_to_be(width: int, height: int) -> bytes:
    """A PNG of one pixel whose header says that it has so many: whoever decodes it finds its rows missing."""
    stream = io.BytesIO()
    Image.new("1", (1, 1)).save(stream, "PNG")
    body = bytearray(stream.getvalue())
    struct.pack_into(">II", body, 16, width, height)
    struct.pack_into(">I", body, 29, zlib.crc32(body[12:29]))
    return bytes(body)


def test_parameters_in_the_form_that_viewers_read() -> None:
    text = parameters_text(
        prompt="a fox,\r\nin the snow",
        negative_prompt="blurry\nugly",
        steps=20,
        sampler_label="DPM++ 2M Karras",
        guidance_scale=7.5,
        seed=2**63 - 1,
        width=768,
        height=512,
        model="sd-1.5",
        model_digest="0123456789abcdef" * 4,
    )
    *words, settings = text.split("\n")
    assert words == ["a fox,", "in the snow", "Negative prompt: blurry", "ugly"]
    assert settings.startswith(
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 9223372036854775807, Size: 768x512, "
        "Model hash: 0123456789, Model: sd-1.5, Version: nightmill "
    )


def test_parameters_leave_out_what_is_not_there_and_quote_commas() -> None:
    text = parameters_text("a", "", 4, "Euler", 1.0, 0, 64, 64, 'my, "model"', "ab", upscale="x4")
    lines = text.split("\n")
    assert len(lines) == 2
    assert 'CFG scale: 1, Seed: 0, Size: 64x64, Model hash: ab, Model: "my, \\"model\\"", ' in lines[1]
    assert "Hires upscaler: x4, Version: nightmill" in lines[1]
