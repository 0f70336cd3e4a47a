"""What each column of an export is, in words, and of what kind its values are."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import pyarrow as pa

from jobs.images.insert_and_public_columns import public_columns
from scheduler.export.rows.hugging_face import IMAGE

_LINK = re.compile(r"\s*\(\[[^]]*\]\([^)]*\)\)")

_JOINED = re.compile("(meta|quality|timings)_(.+)")
"""Names of columns in tables that take a dot for something else."""

_OTHERS = {
    "path": "the image's file, relative to the export's folder where that lies beside the images or has copies of "
    "them, else to the output",
    "date": "of created_at, in UTC",
    "nsfw_content_detected": "whether the safety checker flagged the image; null: not checked",
    "image": "the image's file",
    "file_name": "the image's file, in the same folder",
    "text": "the caption: that of the manifest, else the prompt",
    "sample_key": "name of the sample in the archive",
    "tar_offset": "where the sample begins in the archive, in bytes",
    "json_bytes": "size of the sample's JSON",
    "txt_bytes": "size of the sample's caption",
    "quality.clip_score": "0 to 100, of the image and its prompt before upscaling",
    "quality.clip_model": "which CLIP model",
}


Kind = Literal["image", "object", "boolean", "integer", "number", "timestamp", "date", "text"]


_KINDS: Sequence[tuple[Kind, Callable[[pa.DataType], bool]]] = (
    ("boolean", pa.types.is_boolean),
    ("integer", pa.types.is_integer),
    ("integer", pa.types.is_decimal),
    ("number", pa.types.is_floating),
    ("timestamp", pa.types.is_timestamp),
    ("date", pa.types.is_date),
)


def kind_of(type_: pa.DataType) -> Kind:
    """Return what a column's values are, whatever their width, for descriptions that name types in their own words."""
    if type_ in (IMAGE, pa.json_()):
        return "image" if type_ == IMAGE else "object"
    return next((kind for kind, is_kind in _KINDS if is_kind(type_)), "text")


def description(name: str) -> str:
    """Return what a column is."""
    known = {column.name: column.doc for column in public_columns()} | _OTHERS
    source, _, key = name.partition(".")
    if name not in known and (joined := _JOINED.fullmatch(name)):
        return description(f"{joined[1]}.{joined[2]}")
    if name in known:
        return _LINK.sub("", known[name])
    return f"seconds of the stage {key}" if source == "timings" else f"the manifest's column {key or name}"
