"""The columns that an export writes: those of image rows, what is derived from them, and keys of `meta`."""

import json
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from scheduler.export.export_options import ExportOptions
from scheduler.export.image_arrow_schema import SCHEMA
from scheduler.export.image_copies.copies_of_shard import copy_names
from scheduler.export.rows.flatten_json_columns import JsonColumn, read_json_columns
from scheduler.export.rows.unfit_values import UnfitValues

STAGES = (
    *("prompt_filter", "content_safety_of_prompts", "load_inputs", "generate", "upscale_input", "safety"),
    *("clip_score", "upscale", "safety_of_upscaled", "content_safety_of_images"),
    *(
        "perceptual_hash",
        "watermark",
        "encode",
        "iscc_code",
        "sign",
        "verify_watermark",
    ),
    "upload",
)
"""Whose seconds are columns of their own."""

_DERIVED = pa.schema([("path", pa.string()), ("date", pa.date32()), ("nsfw_content_detected", pa.bool_())])
_FOUND = (
    JsonColumn("quality", "clip_score", "double"),
    JsonColumn("quality", "clip_model", "string"),
    *(JsonColumn("timings", stage, "double") for stage in STAGES),
)


class ExportColumns:
    """The columns that an export has by its options; `unfit` counts the values that their type has no room for.

    Those that partitions are named by are in no file.
    """

    def __init__(
        self, options: ExportOptions, default: Sequence[str] = (), *, kept: Sequence[str] = ()
    ) -> None:
        """Choose the columns that the options name; if they name none the `default`, and if there is none, all.

        `kept` are those of the whole export, the format's own among them; none: all that are chosen.
        """
        self._options = options
        known = export_schema(options)
        names = [
            name for name in options.columns or default or known.names if name not in options.partition_by
        ]
        if kept:
            names = [name for name in kept if name in names]
        self.schema = pa.schema([known.field(name) for name in names])
        self._read_json = [column for column in _json_columns(options) if column.name in names]
        self.unfit = UnfitValues()

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the columns of image rows."""
        found = read_json_columns(batch, self._read_json, self.unfit)
        values = dict(zip((column.name for column in self._read_json), found, strict=True))
        columns = [
            values[name] if name in values else self._column(batch, name) for name in self.schema.names
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def told(self) -> dict[str, str]:
        """Return what the metadata of a file tells of its columns."""
        return {"nightmill.unfit_values": json.dumps(self.unfit.counts())}

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name == "path" and self._options.copy_images:
            return pa.array(copy_names(batch), pa.string())
        if name == "path":
            return pc.binary_join_element_wise(self._options.path_prefix, batch.column("key"), "")
        return _DERIVATIONS[name](batch) if name in _DERIVATIONS else batch.column(name)


def kept_of(schema: pa.Schema, kept: Sequence[str]) -> pa.Schema:
    """Return the columns of a schema that an export has, in its order; `kept` has none: all."""
    return pa.schema([schema.field(name) for name in kept]) if kept else schema


def export_schema(options: ExportOptions) -> pa.Schema:
    """Return all columns that an export could have with these columns of `meta`."""
    return pa.schema([*SCHEMA, *_DERIVED, *(column.field for column in _json_columns(options))])


def _json_columns(options: ExportOptions) -> list[JsonColumn]:
    return [*_FOUND, *(JsonColumn("meta", key, type) for key, type in options.meta_columns)]


def _nsfw(batch: pa.RecordBatch) -> pa.Array:
    """Null where nothing was checked, as in the output of diffusers' pipelines."""
    is_flagged = pc.not_equal(batch.column("safety_verdict"), "safe")
    is_checked = pc.or_(is_flagged, batch.column("safety_scores").is_valid())
    return pc.if_else(is_checked, is_flagged, None)


_DERIVATIONS: Mapping[str, Callable[[pa.RecordBatch], pa.Array]] = {
    "date": lambda batch: batch.column("created_at").cast(pa.date32()),
    "nsfw_content_detected": _nsfw,
}
