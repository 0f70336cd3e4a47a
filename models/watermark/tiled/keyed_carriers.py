"""The carriers of the tiled mark: which frequencies of the tile carry the pilot and the symbols, by a secret key."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.watermark.tiled.convolutional_code import SYMBOLS

TILE = 128
"""Side of the tile in pixels of the frame."""
_LOWEST, _HIGHEST = 10, 30
_PILOT_SHARE = 0.25

Ints = npt.NDArray[np.int64]
Complex = npt.NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Carriers:
    """The frequencies, in cycles a tile, of a half plane between two radii, in a secret order and with secret phases.

    `rows` and `columns` (n,) index an FFT of the tile; `phases` (n,) are unit complex numbers; `rings` (n,) are whole
    radii from 0 on. The first `pilots` of them have a known amplitude; real and imaginary parts of the others carry
    symbols: `symbols` (2 (n - pilots),), of which `counts` (352,) say how many each has.
    """

    rows: Ints
    columns: Ints
    phases: Complex
    rings: Ints
    pilots: int
    symbols: Ints
    counts: Ints

    @property
    def signed_rows(self) -> Ints:
        """Cycles a tile downwards (n,)."""
        return _signed(self.rows)

    @property
    def signed_columns(self) -> Ints:
        """Cycles a tile to the right (n,)."""
        return _signed(self.columns)

    @property
    def radii(self) -> npt.NDArray[np.float32]:
        """Cycles a tile (n,)."""
        return np.hypot(self.signed_rows, self.signed_columns).astype(np.float32)


@lru_cache(maxsize=16)
def carriers(key: bytes) -> Carriers:
    """Return the carriers of a key of any length.

    The key gives the same ones on every machine and for ever: they come from SHAKE-256 of the key by sorting alone.
    """
    rows, columns = _half_plane()
    dimensions = 2 * (len(rows) - round(len(rows) * _PILOT_SHARE))
    turns = -(-dimensions // SYMBOLS)
    drawn = np.frombuffer(hashlib.shake_256(key).digest(8 * (2 * len(rows) + turns * SYMBOLS)), "<u8")
    order, angles, places = np.split(drawn, [len(rows), 2 * len(rows)])
    chosen = order.argsort(kind="stable")
    rows, columns = rows[chosen], columns[chosen]
    symbols = places.reshape(turns, SYMBOLS).argsort(axis=1, kind="stable").reshape(-1)[:dimensions]
    return Carriers(
        rows=rows,
        columns=columns,
        phases=np.exp(2j * np.pi * (angles / 2.0**64)).astype(np.complex64),
        rings=(np.hypot(_signed(rows), _signed(columns)) - _LOWEST).astype(np.int64),
        pilots=len(rows) - dimensions // 2,
        symbols=symbols,
        counts=np.bincount(symbols, minlength=SYMBOLS),
    )


def parts_of(amplitudes: Complex) -> npt.NDArray[np.float32]:
    """Return real and imaginary parts in turn: (2 n,), as `Carriers.symbols` numbers them."""
    return np.stack([amplitudes.real, amplitudes.imag], axis=-1).reshape(-1)


def _half_plane() -> tuple[Ints, Ints]:
    """Return the indices of one of each pair of opposite frequencies between the radii."""
    y, x = (axis.ravel() for axis in np.meshgrid(np.arange(TILE), np.arange(TILE), indexing="ij"))
    fy, fx = _signed(y), _signed(x)
    radius = np.hypot(fy, fx)
    chosen = (radius >= _LOWEST) & (radius <= _HIGHEST) & ((fy > 0) | (fy == 0) & (fx > 0))
    return y[chosen], x[chosen]


def _signed(index: Ints) -> Ints:
    return np.where(index < TILE // 2, index, index - TILE)
