"""The options of an export: what its files contain. They are stored with it, so that every shard is written alike."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

MetaType = Literal["string", "long", "double", "boolean"]


def _is_relative(prefix: str) -> str:
    if not re.fullmatch(r"(\.\./)*", prefix):
        raise ValueError(f"path_prefix is {prefix!r}, and may only climb: '../../'")
    return prefix


def _is_whole(split: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    if bad := [name for name, _ in split if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name)]:
        raise ValueError(f"{bad[0]!r} is no name of a split: use letters, digits and _, at most 32")
    if len({name for name, _ in split}) < len(split):
        raise ValueError("a split is named twice")
    if split and (min(share for _, share in split) <= 0 or abs(sum(share for _, share in split) - 1) > 1e-9):
        raise ValueError("the shares of the splits must be above 0 and add up to 1")
    return split


def _is_identifier(table: str) -> str:
    if table and not re.fullmatch(r"([A-Za-z0-9_]{1,64}\.){0,3}[A-Za-z0-9_]{1,64}", table):
        raise ValueError(f"{table!r} is no name of a table: write NAMESPACE.NAME in letters, digits and _")
    return table


class ExportOptions(BaseModel):
    """Options that decide the bytes of an export's files; a default never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = ()
    """Those of the files, in this order; none: all."""
    meta_columns: tuple[tuple[str, MetaType], ...] = ()
    """Keys of `meta` that are columns of their own, `meta.<key>`, with their type."""
    path_prefix: Annotated[str, AfterValidator(_is_relative)] = ""
    """What leads from the export's folder to that in which the keys of images begin: the column `path` begins so."""
    where: str = ""
    """Only images that meet this condition (`jobs.images.where_expression`); "": all."""
    awaits_verdicts: bool = False
    """Whether the condition names `accepted`: a shard is sealed when all of its images have been judged."""
    partition_by: tuple[str, ...] = ()
    """Columns by whose values the rows are divided into folders, as Hive does."""
    embed_images: bool = False
    """Whether text formats hold the image files, in base64."""
    copy_images: bool = False
    """Whether the export's folder has copies of the image files, to which the column `path` leads."""
    split: Annotated[tuple[tuple[str, float], ...], AfterValidator(_is_whole)] = ()
    """Names of splits and their shares of the rows, for formats with splits; none: all rows are in `train`."""
    layout: Literal["parquet", "imagefolder"] = "parquet"
    """Of `hf`: images within Parquet files, or as files in folders, with their rows beside them."""
    catalog: str = ""
    """Of `iceberg`: a catalog that pyiceberg is configured for, or a URI; "": nightmill's own."""
    table: Annotated[str, AfterValidator(_is_identifier)] = ""
    """Of `iceberg`: `namespace.name` in the catalog; "": made of the dataset's name."""


@dataclass(frozen=True)
class GivenOptions:
    """Options as a user writes them; None and False: not given."""

    columns: str | None = None
    """`image_id,prompt,meta.label`"""
    meta_columns: str | None = None
    """`label:string,score:double`"""
    partition_by: str | None = None
    """`meta.label,date`"""
    where: str | None = None
    """`accepted and clip_score > 25`"""
    split: str | None = None
    """`train=.9,val=.1`"""
    layout: str | None = None
    embed_images: bool = False
    copy_images: bool = False
    catalog: str | None = None
    table: str | None = None
