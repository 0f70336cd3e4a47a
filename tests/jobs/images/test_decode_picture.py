"""Pictures of unknown origin are decoded within limits."""

import io

import pytest
from PIL import Image

from jobs.images.decode_picture import MAX_PIXELS, decode_picture
from jobs.input_image_access import PictureRefusedError


def progressive(side: int) -> tuple[bytes, bytes]:
    """A progressive JPEG without its end, and its last scan."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    return whole[:-2], whole[whole.rindex(b"\xff\xda") : -2]


def test_a_jpeg_that_sends_the_same_pixels_over_and_over_is_refused() -> None:
    body, scan = progressive(4_000)
    assert decode_picture(body + b"\xff\xd9", "whole.jpg").size == (4_000, 4_000)
    with pytest.raises(PictureRefusedError, match=r"many\.jpg has too many scans"):
        decode_picture(body + scan * (32 * MAX_PIXELS // 4_000**2) + b"\xff\xd9", "many.jpg")


@pytest.mark.parametrize("place", ["after the end", "in a comment"])
def test_other_data_is_no_scan(place: str) -> None:
    """As of motion photos, whose film follows the picture, and of large colour profiles."""
    stream, scans = io.BytesIO(), b"\xff\xda" * 10_000
    comment = scans[:60_000] if place == "in a comment" else b""
    Image.new("RGB", (4_000, 4_000)).save(stream, "JPEG", comment=comment)
    body = stream.getvalue() + (scans if place == "after the end" else b"")
    assert decode_picture(body, "a.jpg").size == (4_000, 4_000)


def test_small_pictures_may_have_many_scans() -> None:
    body, scan = progressive(64)
    assert decode_picture(body + scan * 500 + b"\xff\xd9", "small.jpg").size == (64, 64)
