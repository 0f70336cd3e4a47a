"""What each column of an export is, in words."""

import re

from jobs.images.insert_and_public_columns import public_columns

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


def description(name: str) -> str:
    """Return what a column is."""
    known = {column.name: column.doc for column in public_columns()} | _OTHERS
    source, _, key = name.partition(".")
    if name not in known and (joined := _JOINED.fullmatch(name)):
        return description(f"{joined[1]}.{joined[2]}")
    if name in known:
        return _LINK.sub("", known[name])
    return f"seconds of the stage {key}" if source == "timings" else f"the manifest's column {key or name}"
