"""`datacontract.yaml`: the columns that consumers may rely on, by the Open Data Contract Standard 3.2 (bitol.io)."""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pyarrow as pa

from scheduler.export.dataset_metadata.column_descriptions import description, kind_of
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.exporters import RowFiles
from scheduler.export.parquet.parquet_file import SCHEMA_VERSION

NAME = "datacontract.yaml"
STANDARD = "3.2"
"""Version of the Open Data Contract Standard."""

_FORMATS = {"application/x-parquet": "parquet", "text/csv": "csv", "application/jsonlines": "json"}
_LOGICAL_TYPES = {"image": "object", "text": "string"}
"""The standard's names of kinds of values, where they are others than ours."""

_UNIQUE = ("image_id", "job_id", "sample_key")
_NEVER_NULL = (
    "image_id",
    "batch",
    "job_id",
    "ordinal",
    "index",
    "key",
    "sha256",
    "prompt",
    "seed",
    "meta",
    "created_at",
)


def contract(dataset: Dataset) -> dict[str, Any]:
    """Return the contract; a table of images with the columns of the files that hold the rows."""
    rows = dataset.exporter.row_files()
    return {
        "apiVersion": f"v{STANDARD}.0",
        "kind": "DataContract",
        "id": str(uuid5(NAMESPACE_URL, f"nightmill:{dataset.name}")),
        "name": dataset.name,
        "version": f"{SCHEMA_VERSION}.0.0",
        "status": "active",
        "description": {
            "purpose": "Synthetic images with their prompts and all that is needed to make them again.",
            "usage": "Under one version of the contract, columns are added, never changed or removed.",
            "limitations": f"{dataset.exporter.index_prefix}README.md has the models' licences and use restrictions.",
        },
        "servers": [_server(rows)] if rows else [],
        "schema": [_table(rows)] if rows else [],
    }


def _server(rows: RowFiles) -> dict[str, Any]:
    return {
        "server": "folder",
        "type": "local",
        "path": f"./{rows.pattern}",
        "format": _FORMATS[rows.media_type],
    }


def _table(rows: RowFiles) -> dict[str, Any]:
    return {
        "name": "images",
        "logicalType": "object",
        "physicalType": "file",
        "description": "An image each.",
        "properties": [
            *(_property(field) for field in rows.schema),
            *(
                _property(field) | {"partitioned": True, "partitionKeyPosition": position}
                for position, field in enumerate(rows.partitions, 1)
            ),
        ],
    }


def _property(field: pa.Field) -> dict[str, Any]:
    kind = kind_of(field.type)
    found: dict[str, Any] = {
        "name": field.name,
        "logicalType": _LOGICAL_TYPES.get(kind, kind),
        "physicalType": str(field.type),
        "description": description(field.name),
        "required": field.name in _NEVER_NULL,
    }
    if field.name == "image_id":
        found |= {"primaryKey": True, "primaryKeyPosition": 1}
    if field.name in _UNIQUE:
        found["unique"] = True
    return found
