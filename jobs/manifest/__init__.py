"""Manifests: files of prompts, read as a stream of rows and rejects."""

from jobs.manifest.columns.header import KNOWN_COLUMNS, SETTABLE_COLUMNS, parse_overrides, parse_renames
from jobs.manifest.columns.input_images import PICTURE_COLUMNS
from jobs.manifest.columns.loras import split_loras
from jobs.manifest.columns.options import check_overrides, plain_sampler
from jobs.manifest.open_manifest import open_source
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.rows_from_records import read_rows
from jobs.manifest.types import LoraRules, ManifestFile, ModelRules, Reject, Row, RowRules

__all__ = [
    "KNOWN_COLUMNS",
    "PICTURE_COLUMNS",
    "SETTABLE_COLUMNS",
    "LineCounts",
    "LoraRules",
    "ManifestFile",
    "ModelRules",
    "Reject",
    "Row",
    "RowRules",
    "check_overrides",
    "open_source",
    "parse_overrides",
    "parse_renames",
    "plain_sampler",
    "read_rows",
    "split_loras",
]
