"""The kind of an image file, by its first bytes."""


def media_type_of(body: bytes) -> str | None:
    """Return the media type of a PNG, JPEG or WebP file; None of any other."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if body[:4] == b"RIFF" and body[8:12] == b"WEBP" else None
