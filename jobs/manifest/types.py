"""Data types of manifests: the file, the rules by which it is read, and the resulting rows and rejects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from jobs.storage.safe_open import MANIFEST_LIMIT

Format = Literal["jsonl", "csv", "tsv", "parquet", "txt", "json", "recipe"]
Compression = Literal["none", "gzip", "zstd"]

SEED_SPACE = 2**64
OUTSIDE = "lies neither in the recipe's folder nor below one of NIGHTMILL_IMAGE_ROOTS; move it, or add its folder there"
_new = object.__new__
_set = object.__setattr__


@dataclass(frozen=True)
class ModelRules:
    """Defaults and limits of a model; sizes are in pixels.

    `width` … `sampler`, `strength` and `noise_level` are the defaults of rows without a value; the noise levels are the
    upscaler's. `has_clip`: the model's card names a CLIP model for scoring; `has_decoder`: it names a small decoder.
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
    """A LoRA that rows may name: the base model that it was trained for, and the ids of compatible models."""

    id: str
    base: str
    fits: frozenset[str]


@dataclass(frozen=True)
class RowRules:
    """The rules by which the rows of one batch are read.

    `models` and `loras` map ids and aliases to rules, `overrides` holds the text of `--set` by column, and `renames`
    the header in the file by known column (`--map`). Input images must be below one of `image_roots`; if empty,
    anywhere. `needs_clip` requires models that name a CLIP, `needs_decoder` models that name a small decoder,
    `needs_tiled_mark` pictures that are large enough for one.
    `sampler_names` maps other tools' names of samplers, normalised by `plain_sampler`, to nightmill's, or to "" if
    there is no counterpart. `dropped` are columns of the file to leave out, in lower case. `watches_names` enables the
    detection of other tools' columns; it is off if the user chose all names.
    """

    models: Mapping[str, ModelRules]
    default_model: str
    overrides: Mapping[str, str]
    renames: Mapping[str, str]
    loras: Mapping[str, LoraRules] = field(default_factory=dict)
    image_roots: tuple[str, ...] = ()
    needs_clip: bool = False
    needs_decoder: bool = False
    needs_tiled_mark: bool = False
    sampler_names: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    watches_names: bool = True


@dataclass(frozen=True)
class Row:
    """A valid row with defaults filled in.

    `ordinal` counts data rows from 0, including rejected ones; `line` is the physical line, from 1, on which the row
    starts (in Parquet, the row's number). Input images are absolute paths or s3:// URIs; a `width` and `height` of 0
    stand for the input image's size. `lora` is `id:weight+…` or empty, `upscale` 0 or 4; `meta` can be stored as jsonb.
    Rows with the same `seed_ordinal` share their derived seeds; None: the ordinal. `has_default_model`: the row names
    no model itself.
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
        """Make a row of a dict with all fields, which becomes its `__dict__`; the constructor is eight times slower."""
        row = _new(cls)
        _set(row, "__dict__", fields)
        return row


@dataclass(frozen=True)
class Reject:
    """A rejected row with the reason; `excerpt` has at most 200 printable characters of it."""

    ordinal: int
    line: int
    column: str | None
    reason: str
    excerpt: str


class RowMaker(Protocol):
    """A source that generates rows, such as a recipe."""

    @property
    def rows(self) -> int:
        """The number of rows generated."""

    @property
    def shares_seed(self) -> bool:
        """Whether the rows of one prompt derive the same seeds."""

    @property
    def sweep(self) -> Mapping[str, Sequence[Any]]:
        """The swept columns with their values."""

    def sampled(self, rows: int) -> Self:
        """Return a copy that generates a sample of this many rows."""


@dataclass(frozen=True)
class ManifestFile:
    """A manifest as a local file; `label` is the name given by the user, `sha256` and `bytes` are the raw file's.

    `path` refers to an open descriptor (/dev/fd/…) and is valid inside the block of `open_source`. The unpacked size of
    a compressed file is limited to `limit` bytes.

    `folder` is the base of relative paths in the manifest: an absolute path or an s3:// prefix. The digest of a recipe
    covers the files that it names. `delimiter` is the cell delimiter of a table if the user gave one.
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
        """The number of rows if known without reading the file, as for a recipe; else None."""
        return self.recipe.rows if self.recipe else None

    def sampled(self, rows: int) -> Self:
        """Return a copy whose recipe generates a sample of this many rows; other manifests are returned as they are."""
        return replace(self, recipe=self.recipe.sampled(rows)) if self.recipe else self
