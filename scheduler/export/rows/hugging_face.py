"""The schema of datasets on the Hugging Face hub: which column is an image, and what the others are."""

import json

import pyarrow as pa

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_NAMES = {pa.float64(): "float64", pa.bool_(): "bool", pa.date32(): "date32"}


def features(schema: pa.Schema) -> dict[str, dict[str, str]]:
    """Return the features of `datasets` by column."""
    return {
        field.name: {"_type": "Image"}
        if field.type == IMAGE
        else {"dtype": _NAMES.get(field.type, str(field.type)), "_type": "Value"}
        for field in schema
    }


def with_features(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the metadata by which `datasets` and the hub's viewer show images."""
    info = {"info": {"features": features(schema)}}
    return schema.with_metadata({**(schema.metadata or {}), "huggingface": json.dumps(info)})
