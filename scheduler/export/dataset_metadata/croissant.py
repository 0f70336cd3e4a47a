"""`croissant.json`: the dataset for machines, as JSON-LD of MLCommons' Croissant 1.1 (docs.mlcommons.org/croissant)."""

import re
from typing import Any

import pyarrow as pa

from jobs.storage.key_layout import is_copy
from scheduler.export.dataset_metadata.column_descriptions import Kind, description, kind_of
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.dataset_metadata.huggingface_licence_ids import licence_url
from scheduler.export.dataset_metadata.query_dataset_facts import Facts
from scheduler.export.exporters import RowFiles
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, CROISSANT_TYPE
from scheduler.export.rows.hugging_face import IMAGE

NAME = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.1"

_MEDIA_TYPES = {CONTENT_TYPE: CROISSANT_TYPE, "application/x-ndjson": "application/jsonlines"}
"""Those that Croissant's readers know, where they aren't those that the files are stored with."""

_DATA_TYPES: dict[Kind, str] = {
    "image": "sc:ImageObject",
    "object": "sc:Text",
    "boolean": "sc:Boolean",
    "integer": "sc:Integer",
    "number": "sc:Float",
    "timestamp": "sc:DateTime",
    "date": "sc:Date",
    "text": "sc:Text",
}

_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "excludes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
    "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}


def croissant(dataset: Dataset, facts: Facts) -> dict[str, Any]:
    """Return the description: files with their digests, and the columns of the rows, but for nested ones."""
    rows = dataset.exporter.row_files()
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": dataset.name,
        "description": f"{facts.images:,} synthetic images, with all that is needed to make them again.",
        "version": "1.0.0",
        "url": f"{dataset.exporter.index_prefix}README.md",
        "license": sorted({card.license_url or card.license for card in facts.cards.values()})
        or [licence_url([])],
        "datePublished": f"{facts.last:%Y-%m-%d}"
        if facts.last
        else f"{facts.batches[0].row['created_at']:%Y-%m-%d}",
        "citeAs": f"{dataset.name}, made with nightmill",
        "creator": {"@type": "sc:Organization", "name": "nightmill"},
        "rai:hasSyntheticData": True,
        "distribution": [
            *(_file(file) for file in dataset.files if not is_copy(file["name"])),
            *([_file_set(rows)] if rows and dataset.files else []),
            *_copies(dataset),
        ],
        "recordSet": [_record_set(rows)] if rows and dataset.files else [],
    }


def _file(file: Any) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file["name"],
        "name": file["name"],
        "contentUrl": file["name"],
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": _MEDIA_TYPES.get(file["content_type"], file["content_type"]),
        "sha256": file["sha256"],
    }


def _file_set(rows: RowFiles) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "rows",
        "name": "rows",
        "includes": rows.pattern,
        "encodingFormat": rows.media_type,
    }


def _copies(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the copies of images, of each media type as one set."""
    copies = [file for file in dataset.files if is_copy(file["name"])]
    kinds = {file["content_type"]: file["name"].rpartition(".")[2] for file in copies}
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"{extension}-files",
            "name": f"{extension}-files",
            "includes": f"_images/*/*.{extension}",
            "encodingFormat": media_type,
        }
        for media_type, extension in sorted(kinds.items())
    ]


def _record_set(rows: RowFiles) -> dict[str, Any]:
    found = {"@type": "cr:RecordSet", "@id": "images", "name": "images", "description": "An image each."}
    key = {"key": {"@id": "images/image_id"}} if "image_id" in rows.schema.names else {}
    fields = [_field(field) for field in rows.schema if field.type != pa.json_()]
    return {**found, **key, "field": [*fields, *map(_partition, rows.partitions)]}


def _partition(field: pa.Field) -> dict[str, Any]:
    """Return a column that the names of folders have, as text in percent-encoding."""
    source = {
        "fileSet": {"@id": "rows"},
        "extract": {"fileProperty": "fullpath"},
        "transform": {"regex": f"(?:^|/){re.escape(field.name)}=([^/]+)/"},
    }
    return _field(field) | {"dataType": "sc:Text", "source": source}


def _field(field: pa.Field) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": "rows"}, "extract": {"column": field.name}}
    if field.type == IMAGE:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"images/{field.name}",
        "name": f"images/{field.name}",
        "description": description(field.name),
        "dataType": _DATA_TYPES[kind_of(field.type)],
        "source": source,
    }
