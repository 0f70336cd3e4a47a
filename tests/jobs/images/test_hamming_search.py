"""Groups of near hashes are those that comparing each with each finds, and a million take seconds."""

import numpy as np
import pytest

from jobs.images.hamming_search import MOST_DISTANCE, Hashes, first_of_group


def by_comparing_all(hashes: Hashes, distance: int) -> list[int]:
    found, firsts = [], list[int]()
    for index, value in enumerate(hashes.tolist()):
        first = next(
            (first for first in firsts if (value ^ int(hashes[first])).bit_count() <= distance), index
        )
        if first == index:
            firsts.append(index)
        found.append(first)
    return found


def clustered(rng: np.random.Generator, clusters: int, of: int, flips: int) -> Hashes:
    """Hashes around some centres, each with up to `flips` of its bits changed, in random order."""
    hashes = np.repeat(rng.integers(0, 2**64, clusters, dtype=np.uint64), of)
    for index in range(len(hashes)):
        for bit in rng.integers(0, 64, rng.integers(0, flips + 1)):
            hashes[index] ^= np.uint64(1 << int(bit))
    rng.shuffle(hashes)
    return hashes


@pytest.mark.parametrize("distance", range(MOST_DISTANCE + 1))
@pytest.mark.parametrize("seed", [1, 2])
def test_it_finds_what_comparing_all_finds(distance: int, seed: int) -> None:
    hashes = clustered(np.random.default_rng(seed), 30, 10, 9)
    assert first_of_group(hashes, distance).tolist() == by_comparing_all(hashes, distance)


@pytest.mark.parametrize(
    ("hashes", "firsts"),
    [
        ([], []),
        ([7], [0]),
        ([7, 7, 7], [0, 0, 0]),
        ([0b1111, 0, 0b11], [0, 0, 0]),
        ([0, 2**64 - 1, 0], [0, 1, 0]),
        # The middle one is near both ends, which are far from each other: it joins the first, and the last begins one.
        ([0, 0b1111, 0b11111111], [0, 0, 2]),
    ],
)
def test_small_cases(hashes: list[int], firsts: list[int]) -> None:
    assert first_of_group(np.array(hashes, np.uint64), 4).tolist() == firsts


def test_firsts_are_pairwise_far_apart() -> None:
    hashes = clustered(np.random.default_rng(3), 20, 20, 6)
    firsts = np.unique(first_of_group(hashes, 4))
    apart = np.bitwise_count(hashes[firsts][:, None] ^ hashes[firsts])
    assert apart[~np.eye(len(firsts), dtype=bool)].min() > 4


def test_a_few_near_ones_are_found_among_many() -> None:
    """Comparing each with each would take minutes."""
    rng, number = np.random.default_rng(4), 300_000
    hashes = rng.integers(0, 2**64, number, dtype=np.uint64)
    copies = rng.integers(0, number, 300)
    hashes[copies] = hashes[(copies + 1) % number] ^ np.uint64(0b1011)
    assert (first_of_group(hashes, 4) != np.arange(number)).sum() >= 290
