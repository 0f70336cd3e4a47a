"""Seeds of a batch's images: a row's own seed, or one derived from the batch seed and the row's id or number."""

from functools import cache
from hashlib import blake2b, sha256

from jobs.manifest.types import SEED_SPACE, Row
from jobs.states import SeedSource

GOLDEN = 0x9E3779B1
"""The golden ratio as a share of 2**32, and a prime: multiples of it are well spread (Hurwitz)."""

ROW_SEEDS = 2**32
"""Seeds by row are below: of these, torch's CPU generator takes all bits."""

ID_SEEDS = 2**53 - ROW_SEEDS
"""The number of seeds by id, which start at ROW_SEEDS and end where JSON's numbers are exact no more."""


UNPLACED = -1
"""Stands for a seed by row of which the row's number is still to be found."""

RETRY_STEPS = 1_003_681
"""So many golden-ratio steps lead to the seed of a retry: far beyond a row's images, and from other rows' seeds."""


class Seeds:
    """Derives the seeds of the rows of one batch.

    A seed by id depends on the batch seed and the id only. A seed by row is `hash(batch_seed) + ordinal`, modulo 2**32,
    so that a batch repeats no seed while rows times images per row are below 2**32 / √5, 1.9 billion. Rows of a recipe
    that share seeds have the number of their prompt in the place of the ordinal, whatever the source.
    """

    def __init__(self, batch_seed: int, source: SeedSource = SeedSource.ROW) -> None:
        self.offset = _offset(batch_seed)
        self.source = source
        self._is_by_id = source == SeedSource.ID
        self._hash = blake2b(f"nightmill seed {batch_seed} ".encode(), digest_size=8)

    def first(self, row: Row) -> int:
        """Return the seed of the row's first image, in [0, 2**64)."""
        if row.seed is not None:
            return row.seed
        if self._is_by_id and row.id is not None:
            hashed = self._hash.copy()
            hashed.update(row.id.encode())
            return ROW_SEEDS + int.from_bytes(hashed.digest()) % ID_SEEDS
        own = row.ordinal if row.seed_ordinal is None else row.seed_ordinal
        return (self.offset + own) % ROW_SEEDS

    def of(self, row: Row) -> list[int]:
        """Return one seed per image: `seed`, `seed + 1`, … modulo 2**64, or derived ones, golden-ratio steps apart."""
        first = self.first(row)
        if row.seed is not None:
            return [(first + index) % SEED_SPACE for index in range(row.num_images)]
        return [_step(first, index) for index in range(row.num_images)]


def _step(seed: int, steps: int) -> int:
    """Return the seed so many golden-ratio steps further, among the seeds by row or those by id."""
    if seed < ROW_SEEDS:
        return (seed + steps * GOLDEN) % ROW_SEEDS
    return ROW_SEEDS + (seed - ROW_SEEDS + steps * GOLDEN) % ID_SEEDS


class UnplacedSeeds(Seeds):
    """Seeds of rows whose place isn't known yet: in the place of a seed by row stands UNPLACED."""

    def first(self, row: Row) -> int:
        """Return the seed of the row's first image, or UNPLACED."""
        is_by_row = row.seed is None and row.seed_ordinal is None and self.source == SeedSource.ROW
        return UNPLACED if is_by_row else super().first(row)

    def of(self, row: Row) -> list[int]:
        """Return one seed per image, or UNPLACED for each."""
        return [UNPLACED] * row.num_images if self.first(row) == UNPLACED else super().of(row)


def seed_of_name(name: str) -> int:
    """Return the batch seed of a batch that was given none, by the name that is wanted for it: 1 to 2**53 - 1."""
    return 1 + int.from_bytes(sha256(f"nightmill batch {name}".encode()).digest()[:8]) % (2**53 - 1)


@cache
def _offset(batch_seed: int) -> int:
    return int.from_bytes(sha256(f"nightmill seed {batch_seed}".encode()).digest()[:4])


def sql_step(steps: str) -> str:
    """Return the SQL expression for the value of a column `seed`, so many golden-ratio steps further, in its space."""
    further = f"CAST({GOLDEN} AS numeric) * ({steps})"
    return f"""
    CASE WHEN seed < {ROW_SEEDS} THEN mod(seed + {further}, {ROW_SEEDS})
        WHEN seed < {ROW_SEEDS + ID_SEEDS} THEN {ROW_SEEDS} + mod(seed - {ROW_SEEDS} + {further}, {ID_SEEDS})
        ELSE mod(seed + {further}, {SEED_SPACE}) END"""
