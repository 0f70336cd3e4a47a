"""Signed image files for tests."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from bench.image_files import grainy
from models.provenance import signing_identity
from models.provenance.image_claim import ImageClaim
from models.provenance.signing_identity import Authority, SigningIdentity


class _LongAgo(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2020, 1, 1, tzinfo=tz or UTC)


def expired_identity() -> SigningIdentity:
    """An identity that expired years ago."""
    with patch.object(signing_identity, "datetime", _LongAgo):
        return Authority.create("Example Studio", 100).issue(5)


def identity_valid_for(left: timedelta) -> SigningIdentity:
    """An identity that expires so long from now, as one of 100 days does whose time has passed."""

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - (timedelta(days=100) - left)

    with (
        patch.object(signing_identity, "datetime", Earlier),
        patch.object(signing_identity, "_BACKDATED", timedelta()),
    ):
        return Authority.create("Example Studio", 100).issue(100)


AUTHORITY = Authority.create("Example Studio", 100)
IDENTITY = AUTHORITY.issue(50)


def file(format: str = "PNG", side: int = 128) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(grainy(side)).save(stream, format)
    return stream.getvalue()


def claim(**changes: Any) -> ImageClaim:
    given: dict[str, Any] = {
        "title": "000001-0",
        "version": "1.0",
        "created_at": datetime.now(UTC),
        "is_edited": False,
        "details": {
            "image": "urn:nightmill:0b8e2a50-4f0a-4c06-9a5c-0b86a4cb8c5f:job:7",
            "seed": "18446744073709551615",
        },
    }
    return ImageClaim(**given | changes)


def repainted(body: bytes, format: str) -> bytes:
    """Save the picture again, without what a file says beside it."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(body)) as image:
        Image.fromarray(np.asarray(image.convert("RGB"))).save(stream, format)
    return stream.getvalue()
