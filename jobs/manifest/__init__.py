"""Manifests: files of prompts, read as a stream of rows and rejects."""

from jobs.manifest.columns import KNOWN_COLUMNS, SETTABLE_COLUMNS, parse_overrides, parse_renames
from jobs.manifest.counts import LineCounts
from jobs.manifest.loras import split_loras
from jobs.manifest.options import check_overrides, plain_sampler
from jobs.manifest.pictures import PICTURE_COLUMNS
from jobs.manifest.records import LoraRules, ManifestFile, ModelRules, Reject, Row, RowRules
from jobs.manifest.rows import read_rows
from jobs.manifest.source import open_source

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
