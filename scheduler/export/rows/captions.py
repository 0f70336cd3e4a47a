"""Captions of images: what exports for training say is in a picture."""

import json
from collections.abc import Iterator

import pyarrow as pa


def captions(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Yield each row's caption in UTF-8: the text `caption` of its `meta`, and where there is none the prompt."""
    for prompt, meta in zip(
        batch.column("prompt").to_pylist(), batch.column("meta").to_pylist(), strict=True
    ):
        yield (_own(meta) or prompt).encode(errors="replace")


def _own(meta: str) -> str | None:
    if '"caption"' not in meta:  # few have one; parsing all would take as long as all else
        return None
    found = json.loads(meta).get("caption")
    return found if isinstance(found, str) else None
