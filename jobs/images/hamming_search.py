"""Which of many 64-bit hashes differ in few bits, without comparing each with each.

If two hashes differ in up to `d` bits and are cut into `m` blocks, at least `m - d` blocks are equal. So for each
choice of `m - d` blocks, the hashes are sorted by these blocks, and those with equal ones are compared: the tables of
G. Manku, A. Jain, A. Das Sarma, "Detecting Near-Duplicates for Web Crawling" (2007), section 3.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indexes = npt.NDArray[np.int64]

BITS = 64
MOST_DISTANCE = 10
_CHUNK = 100_000


def first_of_group(hashes: Hashes, distance: int) -> Indexes:
    """Return for each hash the index of its group's first, which it differs from in at most `distance` bits.

    A hash begins a group, and has its own index, unless an earlier one that began a group is that near; of several, it
    joins the earliest. So the first ones of all groups are pairwise further apart than `distance`.
    """
    distinct, begins, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(begins)  # distinct hashes in the order in which they come
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    firsts = np.arange(len(order))
    for low, high in _near_pairs(distinct[order], distance):
        if firsts[low] == low and firsts[high] == high:
            firsts[high] = low
    found: Indexes = begins[order][firsts][place][inverse]
    return found


def _near_pairs(hashes: Hashes, distance: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of indexes whose hashes are near, the lower index first, by the higher and then the lower one."""
    if distance == 0 or len(hashes) < 2:
        return
    found = [np.empty(0, np.int64)]
    masks = _masks(len(hashes), distance)
    for number, mask in enumerate(masks):
        found += _pairs_in_table(hashes, mask, masks[:number], distance)
    packed = np.concatenate(found)
    packed.sort()
    for begin in range(0, len(packed), _CHUNK):
        chunk = packed[begin : begin + _CHUNK]
        yield from zip((chunk & 0xFFFFFFFF).tolist(), (chunk >> 32).tolist(), strict=True)


def _pairs_in_table(
    hashes: Hashes, mask: np.uint64, earlier: Sequence[np.uint64], distance: int
) -> Iterator[Indexes]:
    """Yield the near pairs that are equal under the mask and no earlier one, as higher index << 32 | lower index."""
    keys = hashes & mask
    order = np.argsort(keys, kind="stable")  # indexes rise within equal keys
    keys, values = keys[order], hashes[order]
    starts = np.arange(len(keys) - 1)
    for apart in range(1, len(keys)):
        starts = starts[: np.searchsorted(starts, len(keys) - apart)]
        starts = starts[keys[starts] == keys[starts + apart]]
        if not len(starts):
            return
        differing = values[starts] ^ values[starts + apart]
        is_near = np.bitwise_count(differing) <= distance
        near, differing = starts[is_near], differing[is_near]
        for other in earlier:
            is_new = (differing & other) != 0
            near, differing = near[is_new], differing[is_new]
        yield (order[near + apart] << 32) | order[near]


def _masks(number: int, distance: int) -> list[np.uint64]:
    """Return the masks of all choices of equal blocks, for the number of blocks with the least work."""
    blocks = min(range(distance + 1, distance + 9), key=lambda blocks: _work(number, distance, blocks))
    ends = [BITS * block // blocks for block in range(blocks + 1)]
    masks = [(1 << end) - (1 << begin) for begin, end in pairwise(ends)]
    return [np.uint64(sum(chosen)) for chosen in combinations(masks, blocks - distance)]


def _work(number: int, distance: int, blocks: int) -> float:
    """Estimate the work: sorting all hashes for each choice, and comparing those that are equal by chance."""
    equal_bits = BITS * (blocks - distance) / blocks
    return comb(blocks, distance) * (20 * number + float(number) ** 2 / 2 ** (equal_bits + 1))
