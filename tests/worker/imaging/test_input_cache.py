"""Pictures that rows bring: which are read, what they look like then, and how they are brought to size."""

import errno
import io
import os
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import boto3
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jobs.errors import ObjectStoreError
from jobs.images.decode_picture import MAX_PIXELS
from jobs.job_dataclasses import BatchId, Job, JobId, LaneId
from jobs.settings import load_settings
from tests.s3 import S3Server
from worker.imaging import input_cache
from worker.imaging.input_cache import KEPT, InputImageCache, fit
from worker.imaging.read_input import (
    InputImageError,
    InputImageUnavailableError,
    decode_image,
    flattened,
    heights,
)

LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


def job(**images: str | None) -> Job:
    where = BatchId(1), LaneId(1), 0, 0, 1, uuid.uuid4()
    return Job(JobId(1), *where, "a fox", "", 4, 7.5, "ddim", 7, None, **images)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_read(format: str) -> None:
    image = decode_image(encoded(picture(), format), "i")
    assert (image.size, flattened(image).mode) == ((40, 30), "RGB")


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
def test_others_are_not(format: str) -> None:
    with pytest.raises(InputImageError, match=r"i\.x is no PNG, JPEG or WebP picture"):
        decode_image(encoded(picture(), format), "i.x")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_what_is_cut_off_is_said_so_wherever_the_cut_is(format: str) -> None:
    body = encoded(picture(), format)
    for length in (len(body) // 4, len(body) // 2, len(body) - 40):
        with pytest.raises(InputImageError, match=r"^i\.png is damaged or cut off"):
            decode_image(body[:length], "i.png")


def test_a_damaged_png_is_said_so() -> None:
    body = bytearray(encoded(picture()))
    for place in (len(body) // 2, 18):  # in the pixels, in the width
        body[place] ^= 0xFF
        with pytest.raises(InputImageError, match="damaged"):
            decode_image(bytes(body), "i.png")
        body[place] ^= 0xFF


@pytest.mark.parametrize("side", [8_001, 20_000])
def test_a_bomb_is_not_unpacked(side: int) -> None:
    """Some kilobytes that stand for hundreds of millions of pixels."""
    body = encoded(Image.new("1", (side, side)))
    assert len(body) < 10**6
    assert side * side > MAX_PIXELS
    with pytest.raises(InputImageError, match=r"more than 64,000,000"):
        decode_image(body, "i.png")


def test_texts_that_unpack_to_much_are_refused() -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("comment", "x" * 80_000_000, zip=True)
    with pytest.raises(InputImageError, match="damaged"):
        decode_image(encoded(picture(), pnginfo=chunks), "i.png")


def test_a_picture_is_turned_as_the_camera_noted() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encoded(picture(), exif=exif.tobytes()), "i.png")
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(picture()), -1))


def test_what_is_transparent_is_white() -> None:
    layers = [Image.new("RGBA", (4, 4), (200, 0, 0, 0)), Image.new("LA", (4, 4), (9, 0))]
    for image in layers:
        assert flattened(decode_image(encoded(image), "i")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert flattened(decode_image(encoded(palette, transparency=1), "i")).getpixel((0, 0)) == (255,) * 3
    half = decode_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 51))), "i")
    assert flattened(half).getpixel((0, 0)) == (204, 204, 204)


def test_sixteen_bits_are_kept_for_depth_and_scaled_for_pictures() -> None:
    values = np.array([[0, 257, 40_000, 65_535]], np.uint16)
    image = decode_image(encoded(Image.fromarray(values)), "i")
    assert np.array_equal(np.asarray(heights(image)), values.astype(np.float32))
    assert np.asarray(flattened(image))[0, :, 1].tolist() == [0, 1, 155, 255]
    eight = decode_image(encoded(Image.fromarray(np.array([[0, 7, 255]], np.uint8))), "i")
    assert np.asarray(heights(eight)).tolist() == [[0, 7, 255]]


def test_fitting_covers_and_cuts_alike_on_both_sides() -> None:
    wide = picture(size=(120, 40))
    cropped = wide.crop((40, 0, 80, 40))
    assert np.array_equal(np.asarray(fit(wide, (40, 40), LANCZOS)), np.asarray(cropped))
    tall = picture(size=(40, 120))
    assert np.array_equal(np.asarray(fit(tall, (40, 40), NEAREST)), np.asarray(tall.crop((0, 40, 40, 80))))
    halved = fit(wide, (20, 20), LANCZOS)
    inner = np.s_[:, 3:-3]  # beyond that the filter sees what is cut off
    assert np.array_equal(np.asarray(halved)[inner], np.asarray(cropped.resize((20, 20), LANCZOS))[inner])
    assert fit(wide, (120, 40), LANCZOS) is wide
    assert {fit(picture(size=size), (64, 48), LANCZOS).size for size in ((1, 1), (999, 3), (7, 501))} == {
        (64, 48)
    }


def test_all_three_are_cut_alike(tmp_path: Path) -> None:
    """A step at the same place of each stays at the same place, though their sizes differ."""
    for name, scale in (("init", 2), ("mask", 1), ("depth", 3)):
        pixels = np.zeros((40 * scale, 120 * scale), np.uint8)
        pixels[:, 60 * scale :] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    given = {f"{name}_image": str(tmp_path / f"{name}.png") for name in ("init", "mask", "depth")}
    inputs = InputImageCache(load_settings()).inputs(job(**given), (40, 40))
    assert inputs.image is not None
    assert inputs.mask is not None
    assert inputs.depth is not None
    assert (inputs.image.shape, inputs.mask.shape, inputs.depth.dtype) == ((40, 40, 3), (40, 40), np.float32)
    for values in (inputs.image[..., 0], inputs.mask, inputs.depth):
        assert values[:, :19].max() < 3
        assert values[:, 21:].min() > 252
    assert set(np.unique(inputs.mask)) == {0, 255}, "no grey at the edge of a mask"


@pytest.mark.parametrize(
    ("size", "is_fine"), [((64, 64), True), ((300, 299), True), ((9, 9), True), ((64, 72), False)]
)
def test_a_mask_has_the_pictures_proportions(tmp_path: Path, size: tuple[int, int], is_fine: bool) -> None:
    picture(size=(128, 128)).save(tmp_path / "i.png")
    Image.new("L", size).save(tmp_path / "m.png")
    asked = job(init_image=str(tmp_path / "i.png"), mask_image=str(tmp_path / "m.png"))
    if is_fine:
        assert InputImageCache(load_settings()).inputs(asked, (64, 64)).mask is not None
        return
    with pytest.raises(InputImageError, match="mask_image has 64x72 pixels and init_image 128x128"):
        InputImageCache(load_settings()).inputs(asked, (64, 64))


def test_a_row_of_many_images_opens_its_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    decode = decode_image

    def count(body: bytes, location: str) -> Image.Image:
        opened.append(location)
        return decode(body, location)

    monkeypatch.setattr(input_cache, "decode_image", count)
    cache = InputImageCache(load_settings())
    paths = [str(tmp_path / f"{number}.png") for number in range(KEPT + 1)]
    for path in paths:
        picture().save(path)
    for _ in range(5):
        cache.inputs(job(init_image=paths[0]), (16, 16))
    assert opened == paths[:1]
    picture(1, (50, 50)).save(paths[0])
    cache.inputs(job(init_image=paths[0]), (16, 16))
    assert opened == paths[:1] * 2, "another file by now"
    for path in paths:
        cache.inputs(job(init_image=path), (16, 16))
    assert len(cache._kept) == KEPT


def test_a_picture_that_went_away_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "another").touch()
    with pytest.raises(InputImageError, match=rf"^init_image: there is no file {tmp_path}/i.png$"):
        InputImageCache(load_settings()).inputs(job(init_image=str(tmp_path / "i.png")), (16, 16))


def test_where_its_whole_folder_is_gone_or_cannot_be_read_the_host_may_be_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = InputImageCache(load_settings())
    for folder in (tmp_path, tmp_path / "not-mounted"):
        with pytest.raises(
            InputImageUnavailableError, match=r"^init_image: there is no file .*is the share mounted"
        ):
            cache.inputs(job(init_image=str(folder / "i.png")), None)
    (tmp_path / "i.png").write_bytes(encoded(picture()))
    for number, kind in ((errno.ESTALE, InputImageUnavailableError), (errno.EACCES, InputImageError)):
        broken = OSError(number, os.strerror(number))
        monkeypatch.setattr("jobs.input_image_access.open_regular", Mock(side_effect=broken))
        with pytest.raises(InputImageError, match="can't be read") as raised:
            cache.inputs(job(init_image=str(tmp_path / "i.png")), None)
        assert raised.type is kind


def test_pictures_come_from_s3_too(s3: S3Server) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    key = "pictures/a fox & co.png"
    client.put_object(Bucket=s3.bucket, Key=key, Body=encoded(picture()))
    settings = load_settings(s3_endpoint_url=s3.endpoint_url, s3_region="us-east-1")
    inputs = InputImageCache(settings).inputs(job(init_image=f"{s3.uri}/{key}"), None)
    assert np.array_equal(inputs.image, np.asarray(picture()))
    with pytest.raises(InputImageError, match="there is no such object"):
        InputImageCache(settings).inputs(job(init_image=f"{s3.uri}/none.png"), None)
    narrow = load_settings(s3_endpoint_url=s3.endpoint_url, image_roots=f"{s3.uri}/ours")
    with pytest.raises(InputImageError, match="outside of the folders"):
        InputImageCache(narrow).inputs(job(init_image=f"{s3.uri}/{key}"), None)
    client.close()


def test_an_object_that_is_too_large_is_not_fetched(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key="large.png", Body=bytes(3 << 20))
    client.close()
    monkeypatch.setattr("worker.imaging.read_input.MAX_BYTES", 2 << 20)
    settings = load_settings(s3_endpoint_url=s3.endpoint_url, s3_region="us-east-1")
    with pytest.raises(InputImageError, match="has 3 MiB; at most 2 are read"):
        InputImageCache(settings).inputs(job(init_image=f"{s3.uri}/large.png"), None)


@pytest.mark.usefixtures("s3")
def test_an_s3_that_is_away_is_no_fault_of_the_picture() -> None:
    """Another attempt may find it, so this isn't an InputImageError."""
    settings = load_settings(s3_endpoint_url="http://127.0.0.1:9", s3_region="us-east-1")
    with pytest.raises(ObjectStoreError, match="does not answer"):
        InputImageCache(settings).inputs(job(init_image="s3://bucket/i.png"), None)
