"""The error-correcting code of the tiled mark."""

import numpy as np
import pytest

from models.watermark.tiled.convolutional_code import SYMBOLS, crc16, decode, encode
from models.watermark.tiled.keyed_carriers import carriers
from models.watermark.tiled.read import LEAST_PILOT, reading_of, soft_symbols


def soft(symbols: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    return (2.0 * symbols - 1 + noise * rng.standard_normal(symbols.shape)).astype(np.float32)


def test_the_checksum_is_the_one_of_its_name() -> None:
    """By the check value of CRC-16/CCITT-FALSE in the catalogue of parametrised CRC algorithms: 0x29B1."""
    bits = np.unpackbits(np.frombuffer(b"123456789", np.uint8))
    assert np.packbits(crc16(bits)).tobytes().hex() == "29b1"


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_what_was_encoded_is_decoded(noise: float) -> None:
    rng = np.random.default_rng(1)
    payloads = rng.integers(0, 2, (20, 64)).astype(np.uint8)
    symbols = encode(payloads)
    assert symbols.shape == (20, SYMBOLS)
    found, is_intact = decode(soft(symbols, noise, rng))
    assert np.array_equal(found, payloads)
    assert is_intact.all()


def test_a_fifth_of_the_symbols_may_be_wrong_or_unknown() -> None:
    rng = np.random.default_rng(2)
    payload = rng.integers(0, 2, (1, 64)).astype(np.uint8)
    symbols = soft(encode(payload), 0, rng)
    places = rng.permutation(SYMBOLS)
    symbols[0, places[: SYMBOLS // 10]] *= -1
    symbols[0, places[SYMBOLS // 10 : SYMBOLS // 5]] = 0
    assert np.array_equal(decode(symbols)[0], payload)


def test_noise_alone_has_no_checksum() -> None:
    rng = np.random.default_rng(3)
    assert decode(rng.standard_normal((50, SYMBOLS)).astype(np.float32))[1].sum() == 0


def test_of_many_likely_readings_the_one_with_the_checksum_is_taken() -> None:
    rng = np.random.default_rng(4)
    payloads = rng.integers(0, 2, (60, 64)).astype(np.uint8)
    noisy = soft(encode(payloads), 1.45, rng)
    likeliest, is_intact = decode(noisy)
    found, is_found = decode(noisy, 16)
    assert 10 <= is_intact.sum() < is_found.sum() - 5
    assert np.array_equal(found[is_intact], likeliest[is_intact])
    assert np.array_equal(found[is_found], payloads[is_found])
    assert np.array_equal(found[~is_found], likeliest[~is_found])


def test_only_what_has_a_pilot_is_looked_for_among_many_readings() -> None:
    at, rng = carriers(b"a key"), np.random.default_rng(5)
    payload = rng.integers(0, 2, 64).astype(np.uint8)
    signs = (2.0 * encode(payload) - 1)[at.symbols].reshape(-1, 2)
    marked = np.concatenate([np.ones(at.pilots), signs[:, 0] + 1j * signs[:, 1]])
    more = {1: 0, -1: 0}
    for pilot in more:
        for _ in range(40):
            noise = rng.standard_normal(marked.shape) + 1j * rng.standard_normal(marked.shape)
            amplitudes = (marked + 3.4 * noise).astype(np.complex64)
            amplitudes[: at.pilots] *= pilot
            alone = decode(soft_symbols(amplitudes, at)[None])[1]
            found = reading_of(amplitudes, at)
            more[pilot] += int(found.is_intact) - int(alone[0])
            assert (found.tried == 1) == (alone[0] or found.pilot < LEAST_PILOT)
            assert found.is_intact or found.tried in (1, 16)
    assert more[1] > 0
    assert more[-1] == 0
