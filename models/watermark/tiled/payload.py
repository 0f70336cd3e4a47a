"""What the tiled mark says: by which key, in which installation, as which job a picture was made."""

import hashlib
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from models.watermark.tiled.convolutional_code import Bits

_KEY_BITS, _INSTALLATION_BITS, _JOB_BITS = 8, 16, 40


@dataclass(frozen=True)
class Payload:
    """64 bits: `key_id` (8), `installation` (16), `job` (40); raises ValueError for a number that doesn't fit."""

    key_id: int
    installation: int
    job: int

    def __post_init__(self) -> None:
        for value, bits in (
            (self.key_id, _KEY_BITS),
            (self.installation, _INSTALLATION_BITS),
            (self.job, _JOB_BITS),
        ):
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{value} has no {bits} bits")

    @property
    def hex(self) -> str:
        """Return the payload as 16 hexadecimal digits."""
        return f"{self.key_id:02x}{self.installation:04x}{self.job:010x}"

    @property
    def bits(self) -> Bits:
        """Return the payload as (64,) bits, the highest of the key's id first."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.hex), np.uint8))

    @classmethod
    def of_bits(cls, bits: Bits) -> "Payload":
        """Return the payload of (64,) bits."""
        text = np.packbits(bits).tobytes().hex()
        return cls(int(text[:2], 16), int(text[2:6], 16), int(text[6:], 16))


def installation_number(installation: UUID) -> int:
    """Return the 16 bits that stand for an installation, the first of the SHA-256 of its id."""
    return int.from_bytes(hashlib.sha256(installation.bytes).digest()[:2], "big")
