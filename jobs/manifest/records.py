"""What goes into reading a manifest and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

Format = Literal["jsonl", "csv", "tsv", "parquet", "txt"]
Compression = Literal["none", "gzip", "zstd"]

SEED_SPACE = 2**64
_TORCH_SEEDS = 2**32
_GOLDEN = 0x9E3779B1


@dataclass(frozen=True)
class ModelRules:
    """What a row may ask of a model; sizes are pixels, `steps` … `sampler` the defaults of a silent row."""

    id: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    samplers: frozenset[str]
    size_multiple: int = 8
    min_size: int = 64
    max_size: int = 2048
    modes: frozenset[str] = frozenset({"text2image"})
    upscales: frozenset[int] = frozenset()
    noise_level_max: int = 350


@dataclass(frozen=True)
class RowRules:
    """How the rows of one batch are read.

    `models` maps ids and aliases to rules, `overrides` holds the text of `--set` by column, and `renames` the
    header of the file by known column (`--map`).
    """

    models: Mapping[str, ModelRules]
    default_model: str
    overrides: Mapping[str, str]
    renames: Mapping[str, str]
    batch_seed: int = 0


@dataclass(frozen=True)
class Row:
    """A valid row, defaults filled in.

    `ordinal` counts data rows from 0, rejected ones too; `line` is the physical line, from 1, on which the
    row starts (the row's number in Parquet). `upscale` is 0 or 4; `meta` is JSON-able and storable as jsonb.
    """

    ordinal: int
    line: int
    id: str | None
    prompt: str
    negative_prompt: str
    model: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seed: int | None
    num_images: int
    init_image: str | None
    mask_image: str | None
    strength: float | None
    upscale: int
    noise_level: int | None
    tenant: str | None
    meta: dict[str, Any]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """The row with these fields, which must be all and are taken over; the constructor is eight times slower."""
        row = cls.__new__(cls)
        object.__setattr__(row, "__dict__", fields)
        return row

    def seeds(self, batch_seed: int) -> list[int]:
        """One seed an image, each in [0, 2**64): `seed`, `seed + 1`, … modulo 2**64, or derived.

        A derived seed is `hash(batch_seed) + ordinal + index * 0x9E3779B1` modulo 2**32, because torch's generator
        on the CPU looks at no more than the lower 32 bits. Multiples of the golden ratio keep apart (Hurwitz), so
        that a batch repeats no seed while rows times images a row stay under 2**32 / √5, 1.9 billion.
        """
        if self.seed is not None:
            return [(self.seed + index) % SEED_SPACE for index in range(self.num_images)]
        first = _seed_offset(batch_seed) + self.ordinal
        if self.num_images == 1:
            return [first % _TORCH_SEEDS]
        return [(first + index * _GOLDEN) % _TORCH_SEEDS for index in range(self.num_images)]


@dataclass(frozen=True)
class Reject:
    """A row that can't be a job; `excerpt` is at most 200 printable characters of it."""

    ordinal: int
    line: int
    column: str | None
    reason: str
    excerpt: str


@dataclass(frozen=True)
class ManifestFile:
    """A manifest as a local file; `label` is what the user named, `sha256` and `bytes` the raw file's."""

    label: str
    stem: str
    path: Path
    format: Format
    compression: Compression
    sha256: str
    bytes: int


@cache
def _seed_offset(batch_seed: int) -> int:
    return int.from_bytes(sha256(f"nightmill seed {batch_seed}".encode()).digest()[:4])
