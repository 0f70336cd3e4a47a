"""The file that an image is made from, as a manifest's ingredient."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class ParentFile:
    """The bytes of a PNG, JPEG or WebP file, and its media type."""

    body: bytes = field(repr=False)
    media_type: str
