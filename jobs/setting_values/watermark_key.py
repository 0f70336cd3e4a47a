"""Keys of tiled watermarks, as the setting `watermark_key` gives them."""

import hashlib
import re
from dataclasses import dataclass, field

_FORM = re.compile(r"(\d{1,3}):(\S.*\S)")
LEAST_LENGTH = 16


@dataclass(frozen=True)
class MarkKey:
    """A key and its number, 0 to 255, which marks carry, so that readers know which of several keys it was."""

    number: int
    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The number, and what tells secrets apart without telling them."""
        return f"{self.number}:{hashlib.sha256(self.secret).hexdigest()[:16]}"

    @classmethod
    def parse(cls, text: str) -> "MarkKey":
        """Parse NUMBER:SECRET. Raises ValueError, without the secret."""
        found = _FORM.fullmatch(text)
        is_key = found is not None and 1 <= int(found[1]) <= 255 and len(found[2]) >= LEAST_LENGTH
        if found is None or not is_key or not text.isprintable():
            raise ValueError(
                f"must be NUMBER:SECRET, with a number of 1 to 255 and at least {LEAST_LENGTH} characters"
            )
        return cls(int(found[1]), found[2].encode())


PUBLIC = MarkKey(0, b"nightmill")
"""The key of installations that set none: whoever has nightmill can read their marks, and write such."""
