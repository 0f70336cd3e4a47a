"""What goes into reading a manifest and what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from jobs.storage.local_files import MANIFEST_LIMIT

Format = Literal["jsonl", "csv", "tsv", "parquet", "txt", "json", "recipe"]
Compression = Literal["none", "gzip", "zstd"]

SEED_SPACE = 2**64
OUTSIDE = "lies neither in the recipe's folder nor below one of NIGHTMILL_IMAGE_ROOTS; move it, or add its folder there"
_TORCH_SEEDS = 2**32
_GOLDEN = 0x9E3779B1
_new = object.__new__
_set = object.__setattr__


@dataclass(frozen=True)
class ModelRules:
    """What a row may ask of a model; sizes are pixels.

    `width` … `sampler`, `strength` and `noise_level` are the defaults of a silent row; the noise levels are the
    upscaler's. `has_clip` says whether it names a CLIP to score pictures by, `has_decoder` whether a small
    decoder.
    """

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
    noise_level: int = 20
    strength: float = 0.8
    has_clip: bool = False
    has_decoder: bool = False


@dataclass(frozen=True)
class LoraRules:
    """A LoRA that rows may name: the model that it was made for, and ids of the models that it fits."""

    id: str
    base: str
    fits: frozenset[str]


@dataclass(frozen=True)
class RowRules:
    """How the rows of one batch are read.

    `models` and `loras` map ids and aliases to rules, `overrides` holds the text of `--set` by column, and `renames`
    the header of the file by known column (`--map`). Pictures lie below one of `image_roots`, none for anywhere.
    `needs_clip` asks for models that name a CLIP, `needs_decoder` for those that name a small decoder. `sampler_names`
    maps other names of samplers, as `plain_sampler` has them, to ours, or to "" where there is none. `dropped` are
    columns of the file that are left out, in lower case. `watches_names` is off where the user chose all names.
    """

    models: Mapping[str, ModelRules]
    default_model: str
    overrides: Mapping[str, str]
    renames: Mapping[str, str]
    batch_seed: int = 0
    loras: Mapping[str, LoraRules] = field(default_factory=dict)
    image_roots: tuple[str, ...] = ()
    needs_clip: bool = False
    needs_decoder: bool = False
    sampler_names: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    watches_names: bool = True


@dataclass(frozen=True)
class Row:
    """A valid row, defaults filled in.

    `ordinal` counts data rows from 0, rejected ones too; `line` is the physical line, from 1, on which the
    row starts (the row's number in Parquet). Pictures are absolute paths or s3:// URIs; a `width` and `height`
    of 0 are the picture's own. `lora` is `id:weight+…` or empty, `upscale` 0 or 4; `meta` is JSON-able and storable
    as jsonb. Rows with the same `seed_ordinal` share their derived seeds; None: the ordinal. `has_default_model`: it
    names no model itself.
    """

    ordinal: int
    line: int
    id: str | None
    prompt: str
    negative_prompt: str
    model: str
    mode: str
    lora: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seed: int | None
    num_images: int
    init_image: str | None
    mask_image: str | None
    depth_image: str | None
    strength: float | None
    upscale: int
    noise_level: int | None
    tenant: str | None
    meta: dict[str, Any]
    seed_ordinal: int | None = None
    has_default_model: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """The row with these fields, which must be all and are taken over; the constructor is eight times slower."""
        row = _new(cls)
        _set(row, "__dict__", fields)
        return row

    def seeds(self, batch_seed: int) -> list[int]:
        """One seed an image, each in [0, 2**64): `seed`, `seed + 1`, … modulo 2**64, or derived.

        A derived seed is `hash(batch_seed) + seed_ordinal + index * 0x9E3779B1` modulo 2**32, because torch's generator
        on the CPU looks at no more than the lower 32 bits. Multiples of the golden ratio keep apart (Hurwitz), so
        that a batch repeats no seed while rows times images a row stay under 2**32 / √5, 1.9 billion.
        """
        first = self.first_seed(batch_seed)
        if self.seed is not None:
            return [(first + index) % SEED_SPACE for index in range(self.num_images)]
        return [(first + index * _GOLDEN) % _TORCH_SEEDS for index in range(self.num_images)]

    def first_seed(self, batch_seed: int) -> int:
        """The first of `seeds`."""
        if self.seed is not None:
            return self.seed
        own = self.ordinal if self.seed_ordinal is None else self.seed_ordinal
        return (_seed_offset(batch_seed) + own) % _TORCH_SEEDS


@dataclass(frozen=True)
class Reject:
    """A row that can't be a job; `excerpt` is at most 200 printable characters of it."""

    ordinal: int
    line: int
    column: str | None
    reason: str
    excerpt: str


class RowMaker(Protocol):
    """What makes rows instead of reading them, as a recipe does."""

    @property
    def rows(self) -> int:
        """How many it makes."""

    @property
    def sweep(self) -> Mapping[str, Sequence[Any]]:
        """The columns that it gives several values each, and these."""

    def sampled(self, rows: int) -> Self:
        """The same, of which only so many rows are made."""


@dataclass(frozen=True)
class ManifestFile:
    """A manifest as a local file; `label` is what the user named, `sha256` and `bytes` the raw file's.

    `path` is that of an open descriptor (/dev/fd/…), there as long as the block of `open_source` runs. What is
    compressed has at most `limit` bytes when it is unpacked.

    `folder` is where relative paths in it start: an absolute path or an s3:// prefix. The digest of a recipe covers the
    files that it names. `delimiter` is what separates a table's cells where the user says it.
    """

    label: str
    stem: str
    path: Path
    format: Format
    compression: Compression
    sha256: str
    bytes: int
    folder: str = "/"
    recipe: RowMaker | None = None
    limit: int = MANIFEST_LIMIT
    delimiter: str | None = None

    @property
    def rows(self) -> int | None:
        """How many rows it has, where that is known without reading them."""
        return self.recipe.rows if self.recipe else None

    def sampled(self, rows: int) -> Self:
        """The same recipe, of which only so many rows are made."""
        return replace(self, recipe=self.recipe.sampled(rows)) if self.recipe else self


@cache
def _seed_offset(batch_seed: int) -> int:
    return int.from_bytes(sha256(f"nightmill seed {batch_seed}".encode()).digest()[:4])
