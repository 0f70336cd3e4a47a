"""The error-correcting code of the tiled mark: a checksum and a convolutional code, read by soft decisions.

64 bits of payload are followed by their CRC-16 and 8 zeros that end the code; each of these 88 bits makes 4 symbols
(constraint length 9, rate 1/4, generators 463, 535, 733, 745 octal: Proakis, Digital Communications, table 8.2-2).
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PAYLOAD_BITS = 64
_CRC_BITS = 16
_MEMORY = 8
_GENERATORS = (0o463, 0o535, 0o733, 0o745)
STEPS = PAYLOAD_BITS + _CRC_BITS + _MEMORY
SYMBOLS = STEPS * len(_GENERATORS)
_STATES = 1 << _MEMORY


def crc16(bits: Bits) -> Bits:
    """Return the CRC-16/CCITT-FALSE of (…, n) bits, 0 or 1, the first one first: (…, 16)."""
    register = np.full(bits.shape[:-1], 0xFFFF, np.uint32)
    for bit in np.moveaxis(bits, -1, 0):
        top = (register >> 15) ^ bit
        register = ((register << 1) & 0xFFFF) ^ (top * 0x1021)
    return ((register[..., None] >> np.arange(15, -1, -1)) & 1).astype(np.uint8)


def encode(payload: Bits) -> Bits:
    """Return the 352 symbols, 0 or 1, of (…, 64) bits."""
    tail = np.zeros((*payload.shape[:-1], _MEMORY), np.uint8)
    message = np.concatenate([payload, crc16(payload), tail], axis=-1)
    padded = np.concatenate([tail, message], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _MEMORY + 1, axis=-1)
    symbols = (windows @ _taps().T) & 1  # (…, 88, 4); the newest bit of a window is its last
    return symbols.reshape(*payload.shape[:-1], SYMBOLS).astype(np.uint8)


def decode(soft: Floats, paths: int = 1) -> tuple[Bits, npt.NDArray[np.bool_]]:
    """Return the payload of (N, 352) soft symbols, below 0 for 0 and above 0 for 1, and whether its CRC fits.

    Payloads are (N, 64), the others (N,). Of the likeliest `paths`, the first whose CRC fits is taken, or else the
    first of all: by Viterbi's algorithm over all 256 states, which keeps so many ways to each (Seshadri, Sundberg 1994,
    "List Viterbi Decoding Algorithms with Applications"). Noise has a CRC that fits by chance `paths` times as often.
    """
    messages = _likeliest(soft, paths)
    payloads, crcs = messages[..., :PAYLOAD_BITS], messages[..., PAYLOAD_BITS : PAYLOAD_BITS + _CRC_BITS]
    fits = (crc16(payloads) == crcs).all(axis=-1)
    return payloads[np.arange(len(soft)), fits.argmax(axis=1)], fits.any(axis=1)


def _likeliest(soft: Floats, paths: int) -> Bits:
    """Return the likeliest messages of (N, 352) soft symbols, the best first: (N, paths, 88)."""
    count, signs = len(soft), _branch_signs()
    metrics = np.full((count, _STATES, paths), -np.inf, np.float32)
    metrics[:, 0, 0] = 0
    choices = np.empty((STEPS, count, _STATES, paths), np.int64)  # of the paths of both predecessors
    for step, symbols in enumerate(soft.reshape(count, STEPS, -1).swapaxes(0, 1)):
        branches = metrics[:, _PREDECESSORS] + (symbols @ signs).reshape(count, 2, _STATES, 1)
        ways = branches.swapaxes(1, 2).reshape(count, _STATES, 2 * paths)
        choices[step] = _best(ways, paths)
        metrics = np.take_along_axis(ways, choices[step], axis=-1)
    rows, ranks = np.arange(count)[:, None], np.tile(np.arange(paths), (count, 1))
    states = np.zeros_like(ranks)
    messages = np.empty((count, paths, STEPS), np.uint8)
    for step in range(STEPS - 1, -1, -1):
        messages[..., step] = states & 1
        origins, ranks = np.divmod(choices[step, rows, states, ranks], paths)
        states = _PREDECESSORS[origins, states]
    return messages


def _best(ways: Floats, paths: int) -> npt.NDArray[np.int64]:
    """Return the places of the largest (…, n) values, the largest first: (…, paths)."""
    if paths == 1:  # of two; sorting would take as long as all else
        return (ways[..., 1:] > ways[..., :1]).astype(np.int64)
    found: npt.NDArray[np.int64] = np.argsort(-ways, axis=-1, kind="stable")[..., :paths]
    return found


# The states that lead to each: a state is the last 8 bits, the newest lowest; the oldest bit, which falls out, is free.
_PREDECESSORS = np.stack([np.arange(_STATES) >> 1, (np.arange(_STATES) >> 1) | (_STATES >> 1)])


@lru_cache(maxsize=1)
def _taps() -> npt.NDArray[np.int64]:
    """Return the generators as (4, 9) of 0 and 1, the oldest bit first."""
    return np.array([[(generator >> shift) & 1 for shift in range(_MEMORY + 1)] for generator in _GENERATORS])


@lru_cache(maxsize=1)
def _branch_signs() -> Floats:
    """Return the symbols, -1 or 1, of the branches from each of two predecessors to each state: (4, 2 * 256)."""
    register = (_PREDECESSORS << 1 | np.arange(_STATES) & 1)[..., None] >> np.arange(_MEMORY, -1, -1) & 1
    symbols = (register @ _taps().T) & 1  # (2, 256, 4)
    return (2.0 * symbols - 1).reshape(2 * _STATES, -1).T.astype(np.float32)
