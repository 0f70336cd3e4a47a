"""How large manifests in files are, without reading them."""

import pytest

from models.provenance.manifest_size import manifest_bytes
from models.provenance.sign_file import FileSigner
from tests.models.provenance.signed_files import IDENTITY, claim, file


@pytest.mark.parametrize(
    ("format", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_manifests_are_measured_in_all_formats(format: str, media_type: str) -> None:
    plain = file(format)
    signed = FileSigner(IDENTITY).sign(plain, media_type, claim()).body
    assert manifest_bytes(plain) == 0
    assert 0 <= len(signed) - len(plain) - manifest_bytes(signed) <= 32


@pytest.mark.parametrize(
    "body", [b"", b"nothing", file()[:40], file("JPEG")[:30], file("WEBP")[:20], b"\xff\xd8\xff\xe0"]
)
def test_damaged_files_have_none(body: bytes) -> None:
    assert manifest_bytes(body) == 0


@pytest.mark.parametrize("between", [b"\xff", b"\xff\xff\xff", b"\xff\xd0", b"\xff\x01", b"\x00"])
def test_what_may_lie_between_the_segments_of_a_jpeg_hides_no_manifest(between: bytes) -> None:
    signed = FileSigner(IDENTITY).sign(file("JPEG"), "image/jpeg", claim()).body
    begin = 4 + int.from_bytes(signed[4:6], "big")  # the second segment
    assert manifest_bytes(signed[:begin] + between + signed[begin:]) >= manifest_bytes(signed) > 0
